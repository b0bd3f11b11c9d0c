//! Counts of hypercalls.

use super::error::HcallError;
use crate::stats::{OwnCounter, RefusalCounters, Refusals};
use thread_local::ThreadLocal;

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
    /// By thread.
    calls: ThreadLocal<Calls>,
    pub refusals: RefusalCounters,
}

/// Calls of one thread.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub gets: OwnCounter,
    pub puts: OwnCounter,
    pub indirects: OwnCounter,
    pub stuffs: OwnCounter,
    /// TCEs of `indirects` and `stuffs`.
    pub tces: OwnCounter,
}

impl Counters {
    /// Returns the counters of this thread.
    #[inline]
    pub(super) fn calls(&self) -> &Calls {
        self.calls.get_or_default()
    }

    pub(super) fn get(&self) -> HcallStats {
        let sum = |counter: fn(&Calls) -> &OwnCounter| self.calls.iter().map(|calls| counter(calls).get()).sum::<u64>();
        let puts = sum(|calls| &calls.puts);
        HcallStats {
            gets: sum(|calls| &calls.gets),
            puts,
            indirects: sum(|calls| &calls.indirects),
            stuffs: sum(|calls| &calls.stuffs),
            tces: puts + sum(|calls| &calls.tces),
            refusals: self.refusals.get::<HcallError>(),
        }
    }
}
