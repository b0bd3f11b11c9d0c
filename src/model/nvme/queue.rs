//! Queues of a controller, as rings in memory.

use super::command::{COMMAND, COMPLETION, Command, Completion};
use crate::addr::Iova;
use crate::model::pci::{Bus, BusError};
use std::collections::VecDeque;
use zerocopy::{FromBytes, IntoBytes};

/// A submission queue.
#[derive(Clone, Debug)]
pub(super) struct Submission {
    pub(super) base: u64,
    /// Number of entries.
    pub(super) size: u32,
    pub(super) head: u32,
    pub(super) tail: u32,
    /// The completion queue of its commands.
    pub(super) completions: u16,
    /// Commands that were read from memory but not carried out yet.
    pub(super) fetched: VecDeque<Command>,
}

impl Submission {
    pub(super) fn new(base: u64, size: u32, completions: u16) -> Self {
        Self { base, size, head: 0, tail: 0, completions, fetched: VecDeque::new() }
    }

    /// Reads the new commands from memory, at most one round of the ring, so that a driver that
    /// never waits fills no memory.
    pub(super) fn fetch(&mut self, bus: &mut Bus<'_>) -> Result<(), BusError> {
        while self.head != self.tail && self.fetched.len() < self.size as usize {
            let mut entry = [0; COMMAND];
            bus.read(Iova(self.base.wrapping_add(u64::from(self.head) * COMMAND as u64)), &mut entry)?;
            self.head = (self.head + 1) % self.size;
            if let Ok(command) = Command::read_from_bytes(&entry) {
                self.fetched.push_back(command);
            }
        }
        Ok(())
    }
}

/// A completion queue.
#[derive(Clone, Debug)]
pub(super) struct Completions {
    base: u64,
    /// Number of entries.
    pub(super) size: u32,
    pub(super) head: u32,
    tail: u32,
    phase: u16,
    /// The vector of its interrupt, if it has one.
    pub(super) vector: Option<u16>,
    /// Completions for which there is no room yet.
    waiting: VecDeque<Completion>,
}

impl Completions {
    pub(super) fn new(base: u64, size: u32, vector: Option<u16>) -> Self {
        Self { base, size, head: 0, tail: 0, phase: 1, vector, waiting: VecDeque::new() }
    }

    pub(super) fn push(&mut self, completion: Completion) {
        self.waiting.push_back(completion);
    }

    /// Writes completions to memory while the ring has room, and interrupts for each. Returns
    /// whether there were any.
    pub(super) fn post(&mut self, bus: &mut Bus<'_>) -> Result<bool, BusError> {
        let mut posted = false;
        while let Some(completion) = self.waiting.front() {
            let next = (self.tail + 1) % self.size;
            if next == self.head {
                break;
            }
            let mut entry = *completion;
            entry.status = (entry.status.get() | self.phase).into();
            bus.write(Iova(self.base.wrapping_add(u64::from(self.tail) * COMPLETION as u64)), entry.as_bytes())?;
            self.waiting.pop_front();
            self.tail = next;
            if next == 0 {
                self.phase ^= 1;
            }
            if let Some(vector) = self.vector {
                bus.message(vector.into());
            }
            posted = true;
        }
        Ok(posted)
    }

    /// Returns whether a whole ring of completions waits for room: no command is carried out until
    /// the driver takes some.
    pub(super) fn is_blocked(&self) -> bool {
        self.waiting.len() >= self.size as usize
    }

    /// Returns whether the driver has completions to take.
    pub(super) fn has_news(&self) -> bool {
        self.head != self.tail
    }
}
