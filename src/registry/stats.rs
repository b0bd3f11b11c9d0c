//! What was asked of a registry, counted.

use super::{RegisterError, Registry};
use crate::addr::UserRange;
use crate::stats::{Counter, RefusalCounters, Refusals};

/// Registrations since a registry was made. A call with several ranges is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryStats {
    /// Calls that registered.
    pub registers: u64,
    /// Bytes they leased, also where they were registered already.
    pub registered: u64,
    /// Calls that were refused, by kind of [`RegisterError`].
    pub refusals: Refusals,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    registers: Counter,
    registered: Counter,
    refusals: RefusalCounters,
}

impl Counters {
    pub(super) fn register(&self, ranges: &[UserRange], result: &Result<(), RegisterError>) {
        match result {
            Ok(()) => {
                self.registers.add(1);
                self.registered.add(ranges.iter().map(|range| range.len()).fold(0, u64::saturating_add));
            }
            Err(error) => self.refusals.count(error),
        }
    }
}

impl Registry {
    /// What registrations came to.
    pub fn stats(&self) -> RegistryStats {
        let counters = &self.0.counters;
        RegistryStats {
            registers: counters.registers.get(),
            registered: counters.registered.get(),
            refusals: counters.refusals.get::<RegisterError>(),
        }
    }
}
