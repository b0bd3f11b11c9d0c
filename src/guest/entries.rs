//! A TCE table's entries: in the library's own memory, or in the kernel's under KVM. They can be
//! read while they are written.

use super::ddw::MAX_WINDOWS;
use crate::kvm::KernelTable;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Why an entry was not stored: the table would take more memory than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableFull {
    /// Bytes it would take.
    pub needed: u64,
    /// Bytes it may take.
    pub limit: u64,
}

/// Entries of a table.
///
/// They have one writer at a time, which the table ensures, and any number of readers at any time.
/// An index past the end reads as 0 and ignores writes.
#[derive(Debug)]
pub(super) enum Entries {
    /// In the library's own memory.
    Sparse(Sparse),
    /// In the kernel, which changes and maps them by itself, under KVM.
    Kernel(Arc<dyn KernelTable>),
}

impl Entries {
    /// Returns the entry at `index`; 0 if none was ever written.
    #[inline]
    pub(super) fn load(&self, index: u64) -> u64 {
        match self {
            Self::Sparse(entries) => entries.load(index),
            Self::Kernel(table) => table.load(index),
        }
    }

    /// Returns the branch that holds the entry at `index`, and the index of its first one: see
    /// [`Sparse::branch_of`].
    pub(super) fn branch_of(&self, index: u64) -> Option<(u64, Arc<Branch>)> {
        match self {
            Self::Sparse(entries) => entries.branch_of(index),
            Self::Kernel(_) => None,
        }
    }

    /// Stores `value` at `index` unless that needs more memory; returns whether it did.
    #[inline]
    pub(super) fn try_store(&self, index: u64, value: u64) -> bool {
        match self {
            Self::Sparse(entries) => entries.try_store(index, value),
            Self::Kernel(table) => {
                table.store(index, value);
                true
            }
        }
    }

    /// Stores `values` from `first` on.
    pub(super) fn store(&self, first: u64, values: &[u64]) {
        match self {
            Self::Sparse(entries) => entries.store(first, values),
            Self::Kernel(table) => (first..).zip(values).for_each(|(index, value)| table.store(index, *value)),
        }
    }

    /// Stores `value` in `count` entries from `first` on.
    pub(super) fn fill(&self, first: u64, count: u64, value: u64) {
        match self {
            Self::Sparse(entries) => entries.fill(first, count, value),
            Self::Kernel(table) => {
                let end = first.saturating_add(count).min(table.entries());
                (first..end).for_each(|index| table.store(index, value));
            }
        }
    }

    /// Makes room for `values` from `first` on, unless the table would take more than `limit`
    /// bytes. Storing them then takes no more. No entry changes.
    pub(super) fn reserve(&self, first: u64, values: &[u64], limit: &dyn Fn() -> u64) -> Result<(), TableFull> {
        match self {
            Self::Sparse(entries) => entries.reserve(first, values, limit),
            Self::Kernel(_) => Ok(()),
        }
    }

    /// Does the same for [`Self::fill`].
    pub(super) fn reserve_fill(
        &self,
        first: u64,
        count: u64,
        value: u64,
        limit: &dyn Fn() -> u64,
    ) -> Result<(), TableFull> {
        match self {
            Self::Sparse(entries) => entries.reserve_fill(first, count, value, limit),
            Self::Kernel(_) => Ok(()),
        }
    }

    /// Calls `visit` with every run of one value in `first..first + count` that is not 0, in order:
    /// its first index, its length, the value. Skips what was never written as a whole.
    pub(super) fn runs(&self, first: u64, count: u64, visit: &mut dyn FnMut(u64, u64, u64)) {
        match self {
            Self::Sparse(entries) => entries.runs(first, count, visit),
            Self::Kernel(table) => {
                let end = first.saturating_add(count).min(table.entries());
                for index in first..end {
                    let value = table.load(index);
                    if value != 0 {
                        visit(index, 1, value);
                    }
                }
            }
        }
    }

    /// Returns whether the kernel changes and maps them by itself, under KVM.
    #[inline]
    pub(super) fn is_in_kernel(&self) -> bool {
        matches!(self, Self::Kernel(_))
    }
}

/// Entries of a leaf: a 4 KiB page, which one H_PUT_TCE_INDIRECT or H_STUFF_TCE of 512 fills.
const LEAF: usize = 512;
/// Number of leaves in a branch.
const BRANCH: usize = 512;
/// Entries of a branch.
pub(super) const SPAN: u64 = (LEAF * BRANCH) as u64;

/// Each entry is complete in itself: no other data is read because of it.
const RELAXED: Ordering = Ordering::Relaxed;

type Leaf = [AtomicU64; LEAF];

/// A node of the tree: one value for all its entries until they differ and it is split. A split is
/// final, so reads are lock-free.
#[derive(Debug)]
struct Node<T> {
    value: AtomicU64,
    split: OnceLock<T>,
}

impl<T> Node<T> {
    fn new(value: u64) -> Self {
        Self { value: AtomicU64::new(value), split: OnceLock::new() }
    }

    fn value(&self) -> u64 {
        self.value.load(RELAXED)
    }
}

fn new_leaf(value: u64) -> Box<Leaf> {
    Box::new(core::array::from_fn(|_| AtomicU64::new(value)))
}

/// Leaves that continue each other.
#[derive(Debug)]
pub(super) struct Branch {
    leaves: [Node<Box<Leaf>>; BRANCH],
    /// Bytes of it and its leaves.
    bytes: AtomicU64,
    /// Bytes of all branches of the PHB, including those of removed windows that are still read.
    all_bytes: Arc<AtomicU64>,
}

impl Branch {
    fn new(value: u64, all_bytes: &Arc<AtomicU64>) -> Self {
        let leaves = core::array::from_fn(|_| Node::new(value));
        let branch = Self { leaves, bytes: AtomicU64::new(0), all_bytes: Arc::clone(all_bytes) };
        branch.add_bytes(size_of::<Self>());
        branch
    }

    fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, RELAXED);
        self.all_bytes.fetch_add(bytes as u64, RELAXED);
    }

    fn node(&self, index: u64) -> &Node<Box<Leaf>> {
        &self.leaves[index as usize / LEAF % BRANCH]
    }

    /// Returns the entry at `index` of the branch; later ones repeat the first.
    #[inline]
    pub(super) fn load(&self, index: u64) -> u64 {
        let node = self.node(index);
        node.split.get().map_or_else(|| node.value(), |leaf| leaf[Sparse::offset(index)].load(RELAXED))
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        self.all_bytes.fetch_sub(*self.bytes.get_mut(), RELAXED);
    }
}

/// Entries in a tree of branches and leaves. A run of one value costs its nodes only; a leaf whose
/// entries differ takes 8 bytes for each. Leaves stay until the table is dropped, so reads are
/// lock-free.
#[derive(Debug)]
pub(super) struct Sparse {
    branches: Box<[Node<Arc<Branch>>]>,
    len: u64,
    /// Bytes of branches and leaves.
    bytes: AtomicU64,
    /// Bytes of all branches of the PHB.
    all_bytes: Arc<AtomicU64>,
}

impl Sparse {
    /// Creates `len` entries, all 0, of a PHB whose branches are counted in `all_bytes`.
    pub(super) fn new(len: u64, all_bytes: &Arc<AtomicU64>) -> Self {
        let branches = (0..len.div_ceil(SPAN)).map(|_| Node::new(0)).collect();
        Self { branches, len, bytes: AtomicU64::new(0), all_bytes: Arc::clone(all_bytes) }
    }

    /// Returns the most bytes of branches and leaves that an empty table needs for runs in order:
    /// the first index, the length, and whether all are one value.
    pub(super) fn bytes_for(runs: impl Iterator<Item = (u64, u64, bool)>) -> u64 {
        let (mut bytes, mut next_leaf, mut next_branch) = (0_u64, 0, 0);
        let mut touch = |first: u64, end: u64| {
            let (leaf, leaves) = ((first / LEAF as u64).max(next_leaf), end.div_ceil(LEAF as u64));
            let (branch, branches) = ((first / SPAN).max(next_branch), end.div_ceil(SPAN));
            let leaf_bytes = leaves.saturating_sub(leaf).saturating_mul(size_of::<Leaf>() as u64);
            let branch_bytes = branches.saturating_sub(branch).saturating_mul(size_of::<Branch>() as u64);
            bytes = bytes.saturating_add(leaf_bytes).saturating_add(branch_bytes);
            (next_leaf, next_branch) = (next_leaf.max(leaves), next_branch.max(branches));
        };
        for (first, count, uniform) in runs {
            let end = first.saturating_add(count);
            if uniform && count > LEAF as u64 {
                // What lies between its ends is whole leaves.
                touch(first, first + 1);
                touch(end - 1, end);
            } else {
                touch(first, end);
            }
        }
        bytes
    }

    /// Returns the place of an entry in its leaf.
    fn offset(index: u64) -> usize {
        index as usize % LEAF
    }

    fn branch(&self, index: u64) -> Option<&Node<Arc<Branch>>> {
        self.branches.get((index / SPAN) as usize)
    }

    fn leaf(&self, index: u64) -> Option<&Leaf> {
        let branch = self.branch(index)?.split.get()?;
        branch.node(index).split.get().map(|leaf| &**leaf)
    }

    /// Returns the value of entries at `index` that have no leaf.
    fn value(&self, index: u64) -> u64 {
        let Some(node) = self.branch(index) else { return 0 };
        node.split.get().map_or_else(|| node.value(), |branch| branch.node(index).value())
    }

    fn make_branch(&self, index: u64) -> Option<&Branch> {
        let node = self.branch(index)?;
        let branch = node.split.get_or_init(|| {
            self.bytes.fetch_add(size_of::<Branch>() as u64, RELAXED);
            Arc::new(Branch::new(node.value(), &self.all_bytes))
        });
        Some(branch)
    }

    fn make_leaf(&self, index: u64) -> Option<&Leaf> {
        let branch = self.make_branch(index)?;
        let node = branch.node(index);
        let leaf = node.split.get_or_init(|| {
            self.bytes.fetch_add(size_of::<Leaf>() as u64, RELAXED);
            branch.add_bytes(size_of::<Leaf>());
            new_leaf(node.value())
        });
        Some(leaf)
    }

    /// Returns whether `len` entries from `index` on are all that a leaf has of the table.
    fn is_whole(&self, index: u64, len: usize) -> bool {
        index.is_multiple_of(LEAF as u64) && (len == LEAF || index + len as u64 == self.len)
    }

    /// Splits the nodes that storing `part` at `index`, within one leaf, would split, within
    /// `limit`.
    fn make_room(&self, index: u64, part: Part<'_>, limit: &dyn Fn() -> u64) -> Result<(), TableFull> {
        if self.leaf(index).is_some() {
            return Ok(());
        }
        let one = part.one();
        if one == Some(self.value(index)) {
            return Ok(());
        }
        let uniform = one.is_some() && self.is_whole(index, part.len());
        let is_whole_branch = self.branch(index).is_some_and(|node| node.split.get().is_none());
        let branch = if is_whole_branch { size_of::<Branch>() } else { 0 };
        let more = branch + if uniform { 0 } else { size_of::<Leaf>() };
        if more == 0 {
            return Ok(());
        }
        let check = |bytes: &AtomicU64, limit: u64| {
            let needed = bytes.load(RELAXED) + more as u64;
            if needed > limit { Err(TableFull { needed, limit }) } else { Ok(()) }
        };
        let limit = limit();
        check(&self.bytes, limit)?;
        check(&self.all_bytes, limit.saturating_mul(MAX_WINDOWS as u64))?;
        if uniform {
            self.make_branch(index);
        } else {
            self.make_leaf(index);
        }
        Ok(())
    }

    /// Stores values that lie in one leaf.
    fn store_part(&self, index: u64, part: Part<'_>) {
        if self.leaf(index).is_none()
            && let Some(value) = part.one()
        {
            if value == self.value(index) {
                return;
            }
            if self.is_whole(index, part.len()) {
                if let Some(branch) = self.make_branch(index) {
                    branch.node(index).value.store(value, RELAXED);
                }
                return;
            }
        }
        let Some(leaf) = self.make_leaf(index) else { return };
        let entries = &leaf[Self::offset(index)..];
        match part {
            Part::List(values) => entries.iter().zip(values).for_each(|(entry, value)| entry.store(*value, RELAXED)),
            Part::One(value, len) => entries.iter().take(len).for_each(|entry| entry.store(value, RELAXED)),
        }
    }

    /// Splits entries at the borders of leaves, except where `whole` takes a whole branch at once.
    /// Yields the first index and the length of each part.
    fn parts(&self, first: u64, count: u64, whole: impl Fn(&Node<Arc<Branch>>)) -> impl Iterator<Item = (u64, usize)> {
        let end = first.saturating_add(count).min(self.len);
        let mut at = first;
        core::iter::from_fn(move || {
            while at < end && at.is_multiple_of(SPAN) && (end - at >= SPAN || end == self.len) {
                let Some(node) = self.branch(at).filter(|node| node.split.get().is_none()) else { break };
                whole(node);
                at = at.saturating_add(SPAN);
            }
            let here = at;
            let len = (LEAF as u64 - here % LEAF as u64).min(end.checked_sub(here)?);
            at += len;
            (len != 0).then_some((here, len as usize))
        })
    }
}

/// Values to be stored in one leaf.
#[derive(Clone, Copy)]
enum Part<'a> {
    /// These values.
    List(&'a [u64]),
    /// One value, repeated.
    One(u64, usize),
}

impl Part<'_> {
    fn len(&self) -> usize {
        match *self {
            Self::List(values) => values.len(),
            Self::One(_, len) => len,
        }
    }

    /// Returns the value if all are equal.
    fn one(&self) -> Option<u64> {
        match *self {
            Self::List(values) => values.first().copied().filter(|first| values.iter().all(|value| value == first)),
            Self::One(value, _) => Some(value),
        }
    }
}

impl Sparse {
    /// Returns the entry at `index`.
    #[inline]
    pub(super) fn load(&self, index: u64) -> u64 {
        let Some(node) = self.branch(index).filter(|_| index < self.len) else { return 0 };
        node.split.get().map_or_else(|| node.value(), |branch| branch.load(index))
    }

    /// Returns the branch that holds the entry at `index`, and the index of its first one; `None`
    /// while all of them have one value.
    pub(super) fn branch_of(&self, index: u64) -> Option<(u64, Arc<Branch>)> {
        let branch = self.branch(index)?.split.get()?;
        Some((index - index % SPAN, Arc::clone(branch)))
    }

    /// Stores `value` at `index` unless that needs more memory; returns whether it did.
    #[inline]
    pub(super) fn try_store(&self, index: u64, value: u64) -> bool {
        match self.leaf(index).filter(|_| index < self.len) {
            Some(leaf) => {
                leaf[Self::offset(index)].store(value, RELAXED);
                true
            }
            None => value == self.load(index),
        }
    }

    /// Makes room for `values` from `first` on.
    pub(super) fn reserve(&self, first: u64, values: &[u64], limit: &dyn Fn() -> u64) -> Result<(), TableFull> {
        let mut rest = values;
        cut(first, self.len, values.len()).try_for_each(|(at, len)| {
            let (here, after) = rest.split_at(len.min(rest.len()));
            rest = after;
            self.make_room(at, Part::List(here), limit)
        })
    }

    /// Stores `values` from `first` on.
    pub(super) fn store(&self, first: u64, values: &[u64]) {
        let mut rest = values;
        for (at, len) in cut(first, self.len, values.len()) {
            let (here, after) = rest.split_at(len.min(rest.len()));
            rest = after;
            self.store_part(at, Part::List(here));
        }
    }

    /// Makes room for `value` in `count` entries from `first` on.
    pub(super) fn reserve_fill(
        &self,
        first: u64,
        count: u64,
        value: u64,
        limit: &dyn Fn() -> u64,
    ) -> Result<(), TableFull> {
        self.parts(first, count, |_| {}).try_for_each(|(at, len)| self.make_room(at, Part::One(value, len), limit))
    }

    /// Stores `value` in `count` entries from `first` on.
    pub(super) fn fill(&self, first: u64, count: u64, value: u64) {
        for (at, len) in self.parts(first, count, |node| node.value.store(value, RELAXED)) {
            self.store_part(at, Part::One(value, len));
        }
    }

    /// Calls `visit` with every run of one value that is not 0 in `first..first + count`.
    pub(super) fn runs(&self, first: u64, count: u64, visit: &mut dyn FnMut(u64, u64, u64)) {
        let end = first.saturating_add(count).min(self.len);
        let mut at = first;
        let mut uniform = |at: u64, until: u64, value: u64| {
            if value != 0 {
                visit(at, until - at, value);
            }
        };
        while at < end {
            let Some(node) = self.branch(at) else { return };
            let offset = Self::offset(at);
            let Some(branch) = node.split.get() else {
                let until = (at - at % SPAN + SPAN).min(end);
                uniform(at, until, node.value());
                at = until;
                continue;
            };
            let until = (at - offset as u64 + LEAF as u64).min(end);
            match branch.node(at).split.get() {
                None => uniform(at, until, branch.node(at).value()),
                Some(leaf) => {
                    let entries = leaf[offset..].iter().zip(at..until);
                    entries.for_each(|(entry, index)| uniform(index, index + 1, entry.load(RELAXED)));
                }
            }
            at = until;
        }
    }
}

/// Splits `count` entries from `first` on at the borders of leaves and at the table's end.
fn cut(first: u64, len: u64, count: usize) -> impl Iterator<Item = (u64, usize)> {
    let end = first.saturating_add(count as u64).min(len);
    let mut at = first;
    core::iter::from_fn(move || {
        let here = at;
        let len = (LEAF as u64 - here % LEAF as u64).min(end.checked_sub(here)?);
        at += len;
        (len != 0).then_some((here, len as usize))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAF_BYTES: u64 = size_of::<Leaf>() as u64;
    const BRANCH_BYTES: u64 = size_of::<Branch>() as u64;

    fn new(len: u64) -> Sparse {
        Sparse::new(len, &Arc::default())
    }

    fn all(entries: &Sparse) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        entries.runs(0, u64::MAX, &mut |first, count, value| found.extend((first..first + count).map(|n| (n, value))));
        found
    }

    fn bytes(entries: &Sparse) -> u64 {
        entries.bytes.load(RELAXED)
    }

    #[test]
    fn only_what_was_written_takes_memory() {
        let len = if cfg!(miri) { 1 << 21 } else { 1 << 30 };
        let entries = new(len);
        entries.fill(0, len, 0);
        entries.store(5, &[0; 4096]);
        assert_eq!((bytes(&entries), entries.load(5)), (0, 0));
        // Nor does it need any.
        entries.reserve(5, &[0; 600], &|| 0).unwrap();
        entries.reserve_fill(5, 600, 0, &|| 0).unwrap();
        entries.store((1 << 20) - 1, &[7, 8]);
        assert_eq!(bytes(&entries), 2 * (LEAF_BYTES + BRANCH_BYTES));
        assert_eq!(all(&entries), [((1 << 20) - 1, 7), (1 << 20, 8)]);
    }

    #[test]
    fn one_value_over_a_range_takes_directories_only() {
        let len = if cfg!(miri) { SPAN * 3 + 700 } else { 1 << 31 };
        let entries = new(len);
        entries.fill(0, len, 4);
        assert_eq!(bytes(&entries), 0);
        assert_eq!([0, len / 2, len - 1, len].map(|index| entries.load(index)), [4, 4, 4, 0]);
        entries.fill(SPAN + 5, SPAN, 8);
        assert_eq!(bytes(&entries), 2 * (BRANCH_BYTES + LEAF_BYTES));
        let mut runs = Vec::new();
        entries.runs(0, len, &mut |first, count, value| match runs.last_mut() {
            Some((start, total, last)) if *last == value && *start + *total == first => *total += count,
            _ => runs.push((first, count, value)),
        });
        let after = 2 * SPAN + 5;
        assert_eq!(runs, [(0, SPAN + 5, 4), (SPAN + 5, SPAN, 8), (after, len - after, 4)]);
        // Leaves stay, and hold what is stored.
        entries.fill(0, len, 0);
        assert_eq!(all(&entries), []);
        entries.store(SPAN + 6, &[1, 2]);
        assert_eq!(all(&entries), [(SPAN + 6, 1), (SPAN + 7, 2)]);
    }

    #[test]
    fn what_would_take_more_than_the_limit_is_refused_and_enters_nothing() {
        let entries = new(3 * SPAN);
        let limit = 2 * LEAF_BYTES + BRANCH_BYTES;
        entries.reserve(10, &[1; 1000], &|| limit).unwrap();
        assert_eq!((all(&entries), bytes(&entries)), (vec![], limit));
        let full = TableFull { needed: limit + LEAF_BYTES, limit };
        assert_eq!(entries.reserve(3000, &[1], &|| limit), Err(full));
        assert_eq!(entries.reserve_fill(3000, 1, 4, &|| limit), Err(full));
        // Whole leaves, and what has its leaf already, take no more.
        entries.reserve_fill(4096, 1024, 4, &|| limit).unwrap();
        entries.reserve(10, &[2; 900], &|| limit).unwrap();
        entries.fill(4096, 1024, 4);
        assert_eq!((all(&entries).len(), bytes(&entries)), (1024, limit));
    }

    #[test]
    fn the_tables_of_a_phb_share_its_memory() {
        let all_bytes = Arc::default();
        let (first, second) = (Sparse::new(SPAN, &all_bytes), Sparse::new(SPAN, &all_bytes));
        let limit = LEAF_BYTES + BRANCH_BYTES;
        let (_, read) = first.reserve(0, &[1], &|| limit).map(|()| first.branch_of(0).unwrap()).unwrap();
        second.reserve(0, &[1], &|| limit).unwrap();
        drop(first);
        let third = Sparse::new(SPAN, &all_bytes);
        let full = TableFull { needed: 3 * limit, limit: MAX_WINDOWS as u64 * limit };
        assert_eq!(third.reserve(0, &[1], &|| limit), Err(full));
        drop(read);
        third.reserve(0, &[1], &|| limit).unwrap();
        drop((second, third));
        assert_eq!(all_bytes.load(RELAXED), 0);
    }

    #[test]
    fn bytes_for_runs_are_those_they_take() {
        let runs = [(5, 700, false), (900, 3, true), (1000, 1 << 19, true), (3 << 18, 600, false), (800_000, 1, true)];
        let entries = new(1 << 20);
        for (first, count, uniform) in runs {
            match uniform {
                true => entries.fill(first, count, first),
                false => (first..first + count).for_each(|index| entries.store(index, &[index << 12])),
            }
        }
        let needed = Sparse::bytes_for(runs.into_iter());
        assert!(bytes(&entries) <= needed && needed <= bytes(&entries) + BRANCH_BYTES, "{} {needed}", bytes(&entries));
        assert_eq!(Sparse::bytes_for([(0, u64::MAX, true)].into_iter()), 2 * (LEAF_BYTES + BRANCH_BYTES));
    }

    #[test]
    fn nothing_is_stored_past_the_end() {
        let entries = new(600);
        entries.store(598, &[1, 2, 3, 4]);
        entries.fill(599, u64::MAX, 9);
        entries.store(u64::MAX, &[1]);
        assert_eq!(all(&entries), [(598, 1), (599, 9)]);
        assert_eq!(entries.load(600), 0);
        assert_eq!(entries.load(u64::MAX), 0);
    }

    #[test]
    fn values_run_on_over_leaves() {
        let entries = new(4096);
        let values: Vec<u64> = (1..=1500).collect();
        entries.store(300, &values);
        assert_eq!(all(&entries), (300..1800).zip(values).collect::<Vec<_>>());
        entries.fill(400, 1300, 0);
        assert_eq!(all(&entries).len(), 200);
    }
}
