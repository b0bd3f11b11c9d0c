//! What hypercalls came to, counted.

use super::GuestIommu;
use super::error::HcallError;
use super::phb::Phb;
use crate::stats::{Counter, RefusalCounters, Refusals};

/// Hypercalls since a PHB was added. Those that the kernel answers under KVM are not among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HcallStats {
    /// `H_GET_TCE` that succeeded.
    pub gets: u64,
    /// `H_PUT_TCE` that succeeded.
    pub puts: u64,
    /// `H_PUT_TCE_INDIRECT` that succeeded.
    pub indirects: u64,
    /// `H_STUFF_TCE` that succeeded.
    pub stuffs: u64,
    /// TCEs that these entered or cleared.
    pub tces: u64,
    /// Calls that were refused, by kind of [`HcallError`].
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
    fn get(&self) -> HcallStats {
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

impl Phb {
    /// What hypercalls for its windows came to.
    pub fn stats(&self) -> HcallStats {
        self.counters.get()
    }
}

impl GuestIommu {
    /// What hypercalls for all PHBs came to, and those that named no window.
    pub fn stats(&self) -> HcallStats {
        self.phbs().iter().fold(self.strays.get(), |mut all, phb| {
            let stats = phb.stats();
            all.gets += stats.gets;
            all.puts += stats.puts;
            all.indirects += stats.indirects;
            all.stuffs += stats.stuffs;
            all.tces += stats.tces;
            all.refusals.add(&stats.refusals);
            all
        })
    }
}
