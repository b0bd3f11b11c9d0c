//! A ring of packets to send.

use super::E1000eError;
use super::descriptor::Transmit;
use super::registers::Registers;
use super::ring::{Cursor, Ring};
use core::mem::offset_of;
use spapr_iommu::addr::IovaRange;
use spapr_iommu::dma::{Buffer, Dma};
use spapr_iommu::permission::Permission;

/// Largest number of pieces of a packet.
const PIECES: usize = 16;
/// Largest piece that every 82574 accepts, bytes.
const LARGEST: u64 = 16383;

/// A transmit ring. `M` keeps packets mapped.
#[derive(Debug)]
pub(super) struct TransmitRing<M> {
    index: usize,
    descriptors: Buffer<Transmit>,
    /// What keeps the packet mapped, stored at its last descriptor.
    held: Vec<Option<M>>,
    cursor: Cursor,
}

impl<M> TransmitRing<M> {
    /// The controller writes each descriptor's status.
    pub(super) fn new(dma: &Dma, index: usize, entries: u16) -> Result<Self, E1000eError> {
        let descriptors = dma.buffer(entries.into(), Permission::ReadWrite)?;
        let held = (0..entries).map(|_| None).collect();
        Ok(Self { index, descriptors, held, cursor: Cursor::new(entries) })
    }

    /// Gives the ring to the controller.
    pub(super) fn set_up(&self, registers: &Registers) -> Result<(), E1000eError> {
        Ok(registers.set_up(Ring::Transmit(self.index), self.descriptors.iova_range())?)
    }

    /// Returns the number of descriptors that are not in use.
    pub(super) fn room(&self) -> usize {
        self.cursor.room()
    }

    /// Writes a packet to the ring; the controller sees it at the next [`Self::ring`].
    pub(super) fn push(&mut self, pieces: &[IovaRange], held: M) -> Result<(), E1000eError> {
        if !(1..=PIECES).contains(&pieces.len()) || pieces.iter().any(|piece| piece.len() > LARGEST) {
            return Err(E1000eError::Pieces { most: PIECES });
        }
        if pieces.len() > self.room() {
            return Err(E1000eError::Full { ring: self.index });
        }
        let last = pieces.len() - 1;
        for (number, piece) in pieces.iter().enumerate() {
            let descriptor = Transmit::new(piece.start().0, piece.len() as u16, number == last);
            self.descriptors.write(self.cursor.tail(), descriptor)?;
            if number < last {
                self.cursor.push();
            }
        }
        self.held[self.cursor.tail()] = Some(held);
        self.cursor.push();
        Ok(())
    }

    /// Notifies the controller of new packets.
    pub(super) fn ring(&mut self, registers: &Registers) -> Result<(), E1000eError> {
        if let Some(tail) = self.cursor.tell() {
            registers.set_tail(Ring::Transmit(self.index), tail)?;
        }
        Ok(())
    }

    /// Returns the owner of the oldest packet, if the controller has read it.
    pub(super) fn reclaim(&mut self) -> Result<Option<M>, E1000eError> {
        while let Some(head) = self.cursor.head() {
            let status = self.descriptors.read_field(head, offset_of!(Transmit, status))?;
            if !Transmit::is_done(status) {
                break;
            }
            self.cursor.pop();
            if let Some(held) = self.held[head].take() {
                return Ok(Some(held));
            }
        }
        Ok(None)
    }
}
