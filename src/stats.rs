//! Plain counters: what was refused, by kind of error.

use core::fmt;
use core::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use strum::VariantNames;

/// Maximum number of kinds of an error.
const KINDS: usize = 24;

/// Refusals by kind: the name of the error's variant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Refusals {
    kinds: &'static [&'static str],
    counts: [u64; KINDS],
}

impl Refusals {
    /// Returns the number of all refusals.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the number of a kind, such as `not-ram`; 0 for an unknown kind.
    pub fn of(&self, kind: &str) -> u64 {
        self.iter().find(|(name, _)| *name == kind).map_or(0, |(_, count)| count)
    }

    /// Returns the kinds that occurred, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        self.kinds.iter().copied().zip(self.counts).filter(|(_, count)| *count != 0)
    }

    /// Adds the counts of another counter of the same error.
    pub(crate) fn add(&mut self, other: &Self) {
        self.counts.iter_mut().zip(other.counts).for_each(|(count, more)| *count += more);
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// A count that any thread may raise.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A value in cache lines of its own, for what one thread writes often: 128 bytes on POWER, and on
/// x86-64, which fetches two lines of 64.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Padded<T>(pub(crate) T);

impl<T> Deref for Padded<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// A count that one thread at a time raises, because a lock keeps others from it, and any thread
/// reads. That takes no atomic change.
#[derive(Debug, Default)]
pub(crate) struct OwnCounter(AtomicU64);

impl OwnCounter {
    pub(crate) fn add(&self, more: u64) {
        self.0.store(self.0.load(Ordering::Relaxed) + more, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts errors of one type by kind.
#[derive(Debug, Default)]
pub(crate) struct RefusalCounters([Counter; KINDS]);

impl RefusalCounters {
    pub(crate) fn count<'a, E: VariantNames>(&self, error: &'a E)
    where
        &'static str: From<&'a E>,
    {
        const { assert!(E::VARIANTS.len() <= KINDS) };
        let name: &'static str = error.into();
        let kind = E::VARIANTS.iter().position(|kind| *kind == name);
        if let Some(counter) = kind.and_then(|kind| self.0.get(kind)) {
            counter.add(1);
        }
    }

    pub(crate) fn get<E: VariantNames>(&self) -> Refusals {
        Refusals { kinds: E::VARIANTS, counts: self.0.each_ref().map(Counter::get) }
    }
}
