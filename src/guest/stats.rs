//! Counts of hypercalls.

use super::error::HcallError;
use crate::stats::{Counter, RefusalCounters, Refusals};

/// Counts of hypercalls since a PHB was added, except those that the kernel answers under KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HcallStats {
    /// `H_GET_TCE` that succeeded.
    pub gets: u64,
    /// `H_PUT_TCE` that succeeded.
    pub puts: u64,
    /// `H_PUT_TCE_INDIRECT` that succeeded.
    pub indirects: u64,
    /// `H_STUFF_TCE` that succeeded.
    pub stuffs: u64,
    /// TCEs that these calls set or cleared.
    pub tces: u64,
    /// Refused calls, by variant of [`HcallError`].
    pub refusals: Refusals,
}

/// Counters of one PHB.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub gets: Counter,
    pub puts: Counter,
    pub indirects: Counter,
    pub stuffs: Counter,
    /// TCEs of `indirects` and `stuffs`.
    pub tces: Counter,
    pub refusals: RefusalCounters,
}

impl Counters {
    pub(super) fn get(&self) -> HcallStats {
        HcallStats {
            gets: self.gets.get(),
            puts: self.puts.get(),
            indirects: self.indirects.get(),
            stuffs: self.stuffs.get(),
            tces: self.puts.get() + self.tces.get(),
            refusals: self.refusals.get::<HcallError>(),
        }
    }
}
