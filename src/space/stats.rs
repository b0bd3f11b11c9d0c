//! What was asked of a space, counted.

use super::{AddressSpace, MapError, MapRequest, UnmapError};
use crate::stats::{Counter, RefusalCounters, Refusals};

/// Maps and unmaps since a space was made. A call with several requests is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpaceStats {
    /// Calls that mapped.
    pub maps: u64,
    /// Bytes they mapped.
    pub mapped: u64,
    /// Calls that unmapped, also where nothing was mapped.
    pub unmaps: u64,
    /// Bytes they unmapped.
    pub unmapped: u64,
    /// Maps that were refused, by kind of [`MapError`].
    pub map_refusals: Refusals,
    /// Unmaps that were refused, by kind of [`UnmapError`].
    pub unmap_refusals: Refusals,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    maps: Counter,
    mapped: Counter,
    unmaps: Counter,
    unmapped: Counter,
    map_refusals: RefusalCounters,
    unmap_refusals: RefusalCounters,
}

impl Counters {
    pub(super) fn map(&self, requests: &[MapRequest], result: &Result<(), MapError>) {
        match result {
            Ok(()) => {
                self.maps.add(1);
                self.mapped.add(requests.iter().map(|request| request.iova.len()).sum());
            }
            Err(error) => self.map_refusals.count(error),
        }
    }

    pub(super) fn unmap(&self, result: &Result<u64, UnmapError>) {
        match result {
            Ok(bytes) => {
                self.unmaps.add(1);
                self.unmapped.add(*bytes);
            }
            Err(error) => self.unmap_refusals.count(error),
        }
    }
}

impl AddressSpace {
    /// What maps and unmaps came to.
    pub fn stats(&self) -> SpaceStats {
        let counters = &self.0.counters;
        SpaceStats {
            maps: counters.maps.get(),
            mapped: counters.mapped.get(),
            unmaps: counters.unmaps.get(),
            unmapped: counters.unmapped.get(),
            map_refusals: counters.map_refusals.get::<MapError>(),
            unmap_refusals: counters.unmap_refusals.get::<UnmapError>(),
        }
    }
}
