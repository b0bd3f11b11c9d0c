//! Bytes that are stored only where they are not zero, in blocks that copies share until one of
//! them writes.

use core::fmt;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes in a block: the smallest page of any kind.
pub(super) const BLOCK: u64 = 4096;

#[derive(Clone, Default)]
pub(super) struct Sparse {
    blocks: BTreeMap<u64, Arc<[u8]>>,
}

impl Sparse {
    pub(super) fn read(&self, at: u64, data: &mut [u8]) {
        for (block, offset, span) in pieces(at, data.len()) {
            let target = &mut data[span];
            match self.blocks.get(&block) {
                Some(bytes) => target.copy_from_slice(&bytes[offset..offset + target.len()]),
                None => target.fill(0),
            }
        }
    }

    pub(super) fn write(&mut self, at: u64, data: &[u8]) {
        for (block, offset, span) in pieces(at, data.len()) {
            let source = &data[span];
            if source.iter().all(|byte| *byte == 0) && !self.blocks.contains_key(&block) {
                continue;
            }
            let bytes = self.blocks.entry(block).or_insert_with(|| vec![0; BLOCK as usize].into());
            Arc::make_mut(bytes)[offset..offset + source.len()].copy_from_slice(source);
        }
    }

    /// Discards the contents of whole blocks.
    pub(super) fn discard(&mut self, at: u64, len: u64) {
        let (first, end) = (at / BLOCK, at.saturating_add(len) / BLOCK);
        let gone: Vec<u64> = self.blocks.range(first..end).map(|(block, _)| *block).collect();
        for block in gone {
            self.blocks.remove(&block);
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// Without the bytes.
impl fmt::Debug for Sparse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sparse({} blocks)", self.blocks.len())
    }
}

/// Cuts an access at block borders. Yields the block number, the offset in it, and the bytes of the
/// access.
pub(super) fn pieces(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, core::ops::Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let address = at.wrapping_add(done as u64);
        let offset = (address % BLOCK) as usize;
        let take = (len - done).min(BLOCK as usize - offset);
        let piece = (take != 0).then(|| (address / BLOCK, offset, done..done + take));
        done += take;
        piece
    })
}
