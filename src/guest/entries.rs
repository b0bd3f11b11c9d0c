//! Storage of a TCE table's entries, which can be read while others write.

use core::fmt::Debug;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Storage of a table's entries: in the library's own memory, or in the kernel's under KVM.
///
/// It has one writer at a time, which the table ensures, and any number of readers at any time. An
/// index past the end reads as 0 and ignores writes.
pub trait Entries: Send + Sync + Debug {
    /// Returns the entry at `index`.
    fn load(&self, index: u64) -> u64;

    /// Stores `values` from `first` on.
    fn store(&self, first: u64, values: &[u64]);

    /// Stores `value` in `count` entries from `first` on.
    fn fill(&self, first: u64, count: u64, value: u64);

    /// Calls `visit` with every entry in `first..first + count` that is not 0, in order.
    fn each(&self, first: u64, count: u64, visit: &mut dyn FnMut(u64, u64));

    /// Returns whether others change them as well: the kernel under KVM, which then maps them
    /// itself.
    fn changes_by_itself(&self) -> bool {
        false
    }
}

/// Entries of a leaf: a 4 KiB page, which one H_PUT_TCE_INDIRECT or H_STUFF_TCE of 512 fills.
const LEAF: usize = 512;
/// Number of leaves in a branch.
const BRANCH: usize = 512;

/// Each entry is complete in itself: no other data is read because of it.
const RELAXED: Ordering = Ordering::Relaxed;

type Leaf = [AtomicU64; LEAF];
type Branch = [OnceLock<Box<Leaf>>; BRANCH];

/// Entries in a tree that allocates a leaf at its first value other than 0: it takes 8 bytes for
/// each entry near one that was ever written, nothing for the rest. Leaves stay until the table is
/// dropped, so reads are lock-free.
#[derive(Debug)]
pub(super) struct Sparse {
    branches: Box<[OnceLock<Box<Branch>>]>,
    len: u64,
}

fn new_leaf() -> Box<Leaf> {
    Box::new([const { AtomicU64::new(0) }; LEAF])
}

impl Sparse {
    /// Creates `len` entries, all 0.
    pub(super) fn new(len: u64) -> Self {
        let branches = len.div_ceil((LEAF * BRANCH) as u64);
        Self { branches: (0..branches).map(|_| OnceLock::new()).collect(), len }
    }

    fn split(index: u64) -> (usize, usize, usize) {
        let leaf = index / LEAF as u64;
        ((leaf / BRANCH as u64) as usize, (leaf % BRANCH as u64) as usize, (index % LEAF as u64) as usize)
    }

    fn leaf(&self, index: u64) -> Option<&Leaf> {
        let (branch, leaf, _) = Self::split(index);
        self.branches.get(branch)?.get()?.get(leaf)?.get().map(|leaf| &**leaf)
    }

    fn make_leaf(&self, index: u64) -> Option<&Leaf> {
        let (branch, leaf, _) = Self::split(index);
        let branch = self.branches.get(branch)?.get_or_init(|| Box::new([const { OnceLock::new() }; BRANCH]));
        Some(branch.get(leaf)?.get_or_init(new_leaf))
    }

    /// Calls `part` with the existing leaves in `first..first + count`. What was never written is
    /// skipped, by the branch and by the leaf.
    fn each_leaf(&self, first: u64, count: u64, mut part: impl FnMut(u64, &[AtomicU64])) {
        let end = first.saturating_add(count).min(self.len);
        let mut at = first;
        while at < end {
            let (branch, _, offset) = Self::split(at);
            if self.branches.get(branch).is_none_or(|branch| branch.get().is_none()) {
                at = (branch as u64 + 1) * (LEAF * BRANCH) as u64;
                continue;
            }
            let len = (LEAF - offset).min(usize::try_from(end - at).unwrap_or(LEAF));
            if let Some(leaf) = self.leaf(at) {
                part(at, &leaf[offset..][..len]);
            }
            at += len as u64;
        }
    }

    /// Returns the bytes of all leaves.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        let branches = self.branches.iter().filter_map(OnceLock::get);
        branches.flat_map(|branch| branch.iter()).filter(|leaf| leaf.get().is_some()).count() * size_of::<Leaf>()
    }
}

/// Cuts entries at leaves. Yields the first index of each part, and its number of entries.
fn parts(first: u64, count: u64) -> impl Iterator<Item = (u64, usize)> {
    let end = first.saturating_add(count);
    let mut at = first;
    core::iter::from_fn(move || {
        let here = at;
        let len = (LEAF as u64 - here % LEAF as u64).min(end.checked_sub(here)?);
        at += len;
        (len != 0).then_some((here, len as usize))
    })
}

impl Entries for Sparse {
    fn load(&self, index: u64) -> u64 {
        self.leaf(index).map_or(0, |leaf| leaf[Self::split(index).2].load(RELAXED))
    }

    fn store(&self, first: u64, values: &[u64]) {
        let count = (values.len() as u64).min(self.len.saturating_sub(first));
        let mut rest = values;
        for (at, len) in parts(first, count) {
            let (here, behind) = rest.split_at(len.min(rest.len()));
            rest = behind;
            let leaf = match self.leaf(at) {
                Some(leaf) => Some(leaf),
                None if here.iter().all(|&value| value == 0) => None,
                None => self.make_leaf(at),
            };
            let Some(leaf) = leaf else { continue };
            for (entry, &value) in leaf[Self::split(at).2..].iter().zip(here) {
                entry.store(value, RELAXED);
            }
        }
    }

    fn fill(&self, first: u64, count: u64, value: u64) {
        if value == 0 {
            self.each_leaf(first, count, |_, part| part.iter().for_each(|entry| entry.store(0, RELAXED)));
            return;
        }
        for (at, len) in parts(first, count.min(self.len.saturating_sub(first))) {
            let Some(leaf) = self.make_leaf(at) else { continue };
            for entry in &leaf[Self::split(at).2..][..len] {
                entry.store(value, RELAXED);
            }
        }
    }

    fn each(&self, first: u64, count: u64, visit: &mut dyn FnMut(u64, u64)) {
        self.each_leaf(first, count, |at, part| {
            for (entry, index) in part.iter().zip(at..) {
                match entry.load(RELAXED) {
                    0 => {}
                    value => visit(index, value),
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(entries: &Sparse) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        entries.each(0, u64::MAX, &mut |index, value| found.push((index, value)));
        found
    }

    #[test]
    fn only_what_was_written_takes_memory() {
        let len = if cfg!(miri) { 1 << 21 } else { 1 << 30 };
        let entries = Sparse::new(len);
        entries.fill(0, len, 0);
        entries.store(5, &[0; 4096]);
        assert_eq!((entries.bytes(), entries.load(5)), (0, 0));
        entries.store((1 << 20) - 1, &[7, 8]);
        assert_eq!(entries.bytes(), 2 * 4096);
        assert_eq!(all(&entries), [((1 << 20) - 1, 7), (1 << 20, 8)]);
    }

    #[test]
    fn nothing_is_stored_behind_the_end() {
        let entries = Sparse::new(600);
        entries.store(598, &[1, 2, 3, 4]);
        entries.fill(599, u64::MAX, 9);
        entries.store(u64::MAX, &[1]);
        assert_eq!(all(&entries), [(598, 1), (599, 9)]);
        assert_eq!(entries.load(600), 0);
        assert_eq!(entries.load(u64::MAX), 0);
    }

    #[test]
    fn values_run_on_over_leaves() {
        let entries = Sparse::new(4096);
        let values: Vec<u64> = (1..=1500).collect();
        entries.store(300, &values);
        assert_eq!(all(&entries), (300..1800).zip(values).collect::<Vec<_>>());
        entries.fill(400, 1300, 0);
        assert_eq!(all(&entries).len(), 200);
    }
}
