//! A TCE table's entries: in the library's own memory, or in the kernel's under KVM.

use super::sparse::{Branch, Sparse};
use crate::kvm::KernelTable;
use std::sync::Arc;

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

    /// Stores `value` at `index` if that takes no more memory; returns false if it would.
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
