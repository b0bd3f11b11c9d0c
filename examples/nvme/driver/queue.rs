//! A queue pair: commands to the controller, and its completions.

use super::NvmeError;
use super::command::{Command, Completion};
use super::registers::Registers;
use core::mem::offset_of;
use spapr_iommu::dma::{Buffer, Dma};
use spapr_iommu::permission::Permission;
use zerocopy::little_endian::U16;

/// A queue pair in memory, both rings of the same length. At most one command less than that may be
/// in progress, so that neither ring overruns.
#[derive(Debug)]
pub(crate) struct QueuePair {
    id: u16,
    entries: u16,
    commands: Buffer<Command>,
    completions: Buffer<Completion>,
    /// Index of the next command, and the index the controller was notified of.
    tail: u16,
    announced: u16,
    /// Index of the next completion, and the index the controller was notified of.
    head: u16,
    seen: u16,
    /// Phase bit of a new completion.
    phase: u16,
}

impl QueuePair {
    /// The controller only reads commands, and need not read completions.
    pub(crate) fn new(dma: &Dma, id: u16, entries: u16) -> Result<Self, NvmeError> {
        let commands = dma.buffer(entries.into(), Permission::Read)?;
        let completions = dma.buffer(entries.into(), Permission::ReadWrite)?;
        Ok(Self { id, entries, commands, completions, tail: 0, announced: 0, head: 0, seen: 0, phase: 1 })
    }

    pub(crate) fn id(&self) -> u16 {
        self.id
    }

    pub(crate) fn entries(&self) -> u16 {
        self.entries
    }

    /// Returns the bus addresses of commands and completions.
    pub(crate) fn addresses(&self) -> (u64, u64) {
        (self.commands.iova().0, self.completions.iova().0)
    }

    /// Writes a command to the ring.
    pub(crate) fn push(&mut self, command: Command) -> Result<(), NvmeError> {
        self.commands.write(self.tail.into(), command)?;
        self.tail = self.after(self.tail);
        Ok(())
    }

    /// Notifies the controller of the completions taken, then of commands, so that there is room
    /// for their completions.
    pub(crate) fn ring(&mut self, registers: &Registers) -> Result<(), NvmeError> {
        if self.seen != self.head {
            registers.ring_completions(self.id, self.head)?;
            self.seen = self.head;
        }
        if self.announced != self.tail {
            registers.ring_commands(self.id, self.tail)?;
            self.announced = self.tail;
        }
        Ok(())
    }

    /// Returns the next completion, if there is one. The controller writes the phase with its last
    /// part, so that is read first.
    pub(crate) fn take(&mut self) -> Result<Option<Completion>, NvmeError> {
        let at = self.head.into();
        let status: U16 = self.completions.read_field(at, offset_of!(Completion, status))?;
        if status.get() & 1 != self.phase {
            return Ok(None);
        }
        let completion = self.completions.read(at)?;
        self.head = self.after(self.head);
        if self.head == 0 {
            self.phase ^= 1;
        }
        Ok(Some(completion))
    }

    fn after(&self, index: u16) -> u16 {
        if index + 1 == self.entries { 0 } else { index + 1 }
    }
}
