//! A ring of buffers to receive into.

use super::descriptor::{Receive, ReceiveDone};
use super::registers::Registers;
use super::ring::{Cursor, Ring};
use super::{BUFFER, E1000eError};
use core::mem::offset_of;
use spapr_iommu::addr::IovaRange;
use spapr_iommu::dma::{Buffer, Dma};
use spapr_iommu::permission::Permission;
use zerocopy::{FromBytes, IntoBytes};

/// A buffer that the controller has filled.
#[derive(Debug)]
pub(crate) struct Received<M> {
    /// The receive queue it was in.
    pub(crate) queue: usize,
    /// What kept the buffer mapped.
    pub(crate) held: M,
    /// Bytes in the buffer.
    pub(crate) len: u16,
    /// Whether the packet ends here.
    pub(crate) is_last: bool,
}

/// A receive ring. `M` keeps buffers mapped.
#[derive(Debug)]
pub(super) struct ReceiveRing<M> {
    index: usize,
    descriptors: Buffer<Receive>,
    held: Vec<Option<M>>,
    cursor: Cursor,
}

impl<M> ReceiveRing<M> {
    pub(super) fn new(dma: &Dma, index: usize, entries: u16) -> Result<Self, E1000eError> {
        let descriptors = dma.buffer(entries.into(), Permission::ReadWrite)?;
        let held = (0..entries).map(|_| None).collect();
        Ok(Self { index, descriptors, held, cursor: Cursor::new(entries) })
    }

    /// Gives the ring to the controller.
    pub(super) fn set_up(&self, registers: &Registers) -> Result<(), E1000eError> {
        Ok(registers.set_up(Ring::Receive(self.index), self.descriptors.iova_range())?)
    }

    /// Returns the number of descriptors without a buffer.
    pub(super) fn room(&self) -> usize {
        self.cursor.room()
    }

    /// Posts a buffer; the controller sees it at the next [`Self::ring`].
    pub(super) fn post(&mut self, buffer: IovaRange, held: M) -> Result<(), E1000eError> {
        if buffer.len() < BUFFER {
            return Err(E1000eError::Unsupported { what: "receive buffers of less than 2048 bytes" });
        }
        if self.room() == 0 {
            return Err(E1000eError::Full { ring: self.index });
        }
        let tail = self.cursor.tail();
        self.descriptors.write(tail, Receive { address: buffer.start().0.into(), ..Receive::default() })?;
        self.held[tail] = Some(held);
        self.cursor.push();
        Ok(())
    }

    /// Notifies the controller of new buffers.
    pub(super) fn ring(&mut self, registers: &Registers) -> Result<(), E1000eError> {
        if let Some(tail) = self.cursor.tell() {
            registers.set_tail(Ring::Receive(self.index), tail)?;
        }
        Ok(())
    }

    /// Returns the oldest buffer, if the controller has filled it. Reads the status first: it is
    /// written with the rest and shows that the rest is there.
    pub(super) fn take(&mut self) -> Result<Option<Received<M>>, E1000eError> {
        let Some(head) = self.cursor.head() else { return Ok(None) };
        let status = self.descriptors.read_field(head, offset_of!(ReceiveDone, status))?;
        if !ReceiveDone::is_done(status) {
            return Ok(None);
        }
        let descriptor = self.descriptors.read(head)?;
        let done = ReceiveDone::read_from_bytes(descriptor.as_bytes());
        let (Ok(done), Some(held)) = (done, self.held[head].take()) else { return Ok(None) };
        self.cursor.pop();
        if done.is_last() && done.errors() != 0 {
            return Err(E1000eError::Packet { errors: done.errors() });
        }
        Ok(Some(Received { queue: self.index, held, len: done.length(), is_last: done.is_last() }))
    }
}
