//! Physical memory: addresses are allocated once and never reused; contents are stored where they
//! are not zero.

use super::sparse::{BLOCK, Sparse, pieces};
use crate::addr::{UserAddr, UserRange};
use crate::host::{Errno, LentMemory, Shared};
use std::collections::BTreeMap;
use std::sync::Arc;

/// End of user addresses, as on 64-bit POWER.
pub(super) const TASK_SIZE: u64 = 1 << 52;
/// Allocated memory starts after every user address, so that open memory can lie at its own user
/// address.
const FIRST: u64 = TASK_SIZE;

#[derive(Clone, Debug)]
pub(super) struct Physical {
    /// Shared with forks of the machine until one of them writes.
    contents: Sparse,
    /// Memory of the program that runs the model, by start address.
    lent: BTreeMap<u64, Lent>,
    next: u64,
}

/// Memory that does not belong to the model.
#[derive(Clone, Debug)]
pub(super) enum Lent {
    Shared(Shared),
    /// Reached through its owner.
    Owned(UserRange, Arc<dyn LentMemory>),
}

impl Lent {
    fn range(&self) -> UserRange {
        match self {
            Self::Shared(memory) => memory.range(),
            Self::Owned(range, _) => *range,
        }
    }

    fn read(&self, at: u64, data: &mut [u8]) -> Result<(), Errno> {
        match self {
            Self::Shared(memory) => memory.read(at, data),
            Self::Owned(range, memory) => memory.read(UserAddr(range.start().0 + at), data),
        }
    }

    fn write(&self, at: u64, data: &[u8]) -> Result<(), Errno> {
        match self {
            Self::Shared(memory) => memory.write(at, data),
            Self::Owned(range, memory) => memory.write(UserAddr(range.start().0 + at), data),
        }
    }
}

impl Default for Physical {
    fn default() -> Self {
        Self { contents: Sparse::default(), lent: BTreeMap::new(), next: FIRST }
    }
}

impl Physical {
    /// Allocates `size` bytes at a multiple of `align`, a power of two.
    pub(super) fn allocate(&mut self, size: u64, align: u64) -> Option<u64> {
        let start = self.next.checked_next_multiple_of(align)?;
        self.next = start.checked_add(size)?;
        Some(start)
    }

    /// Places lent `memory` at an address.
    pub(super) fn lend(&mut self, at: u64, memory: Lent) {
        self.lent.insert(at, memory);
    }

    /// Returns whether memory of the program is lent at an address.
    pub(super) fn is_lent(&self, at: u64, range: UserRange) -> bool {
        self.lent.get(&at).is_some_and(|memory| memory.range() == range)
    }

    /// Removes the lent memory at an address.
    pub(super) fn take_back(&mut self, at: u64) {
        self.lent.remove(&at);
    }

    /// Copies the contents of lent memory and drops the memory itself.
    pub(super) fn take_back_all(&mut self) {
        for (at, memory) in core::mem::take(&mut self.lent) {
            let mut bytes = vec![0; memory.range().len() as usize];
            if memory.read(0, &mut bytes).is_ok() {
                self.write(at, &bytes);
            }
        }
    }

    /// Returns the lent memory at an address, and the offset in it.
    fn lent(&self, at: u64) -> Option<(&Lent, u64)> {
        let (start, memory) = self.lent.range(..=at).next_back()?;
        (at - start < memory.range().len()).then_some((memory, at - start))
    }

    pub(super) fn read(&self, at: u64, data: &mut [u8]) {
        for (block, offset, span) in pieces(at, data.len()) {
            let target = &mut data[span];
            let at = block * BLOCK + offset as u64;
            let Some((memory, at)) = self.lent(at) else {
                self.contents.read(at, target);
                continue;
            };
            // After its owner took it back, it reads as zeros.
            if memory.read(at, target).is_err() {
                target.fill(0);
            }
        }
    }

    pub(super) fn write(&mut self, at: u64, data: &[u8]) {
        for (block, offset, span) in pieces(at, data.len()) {
            let source = &data[span];
            let at = block * BLOCK + offset as u64;
            match self.lent(at) {
                Some((memory, at)) => drop(memory.write(at, source)),
                None => self.contents.write(at, source),
            }
        }
    }

    /// Discards the contents of whole pages.
    pub(super) fn discard(&mut self, at: u64, len: u64) {
        self.contents.discard(at, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lent_memory_is_its_owners() {
        let mut memory = Physical::default();
        let lent = Shared::heap(0x2000, crate::addr::PageShift::P4K).unwrap();
        let at = memory.allocate(0x3000, 0x10000).unwrap();
        memory.lend(at, Lent::Shared(lent.clone()));
        memory.write(at + 0x1ffe, b"abcd");
        let mut back = [0; 4];
        lent.read(0x1ffe, &mut back[..2]).unwrap();
        assert_eq!(&back, b"ab\0\0");
        lent.write(0x1ffe, b"AB").unwrap();
        memory.read(at + 0x1ffe, &mut back);
        assert_eq!(&back, b"ABcd");
        let mut fork = memory.clone();
        fork.take_back_all();
        fork.write(at + 0x1ffe, b"x");
        memory.read(at + 0x1ffe, &mut back);
        assert_eq!(&back, b"ABcd");
        fork.read(at + 0x1ffe, &mut back);
        assert_eq!(&back, b"xBcd");
        memory.take_back(at);
        memory.read(at + 0x1ffe, &mut back);
        assert_eq!(&back, b"\0\0cd");
    }

    #[test]
    fn contents_cross_blocks_and_zeros_cost_nothing() {
        let mut memory = Physical::default();
        let at = memory.allocate(0x4000, 0x10000).unwrap();
        memory.write(at, &[0; 0x4000]);
        assert!(memory.contents.is_empty());
        memory.write(at + 4094, b"abcd");
        let mut back = [0xff; 6];
        memory.read(at + 4093, &mut back);
        assert_eq!(&back, b"\0abcd\0");
        memory.discard(at, 0x1000);
        memory.read(at + 4093, &mut back);
        assert_eq!(&back, b"\0\0\0cd\0");
    }
}
