//! The leases that are alive, in the order they were made, and by name.

use spapr_iommu::registry::Lease;
use std::collections::{BTreeMap, HashMap};

/// A lease and its name.
pub(super) struct HeldLease {
    pub name: Option<String>,
    pub lease: Lease,
}

/// All leases of a scenario.
#[derive(Default)]
pub(super) struct Leases {
    held: BTreeMap<usize, HeldLease>,
    by_name: HashMap<String, usize>,
    /// Leases made so far.
    made: usize,
}

impl Leases {
    /// Adds a lease after all others.
    pub(super) fn add(&mut self, name: Option<String>, lease: Lease) {
        self.put(self.made, HeldLease { name, lease });
        self.made += 1;
    }

    /// Takes out the lease of that name, with its place.
    pub(super) fn take(&mut self, name: &str) -> Option<(usize, HeldLease)> {
        let place = self.by_name.remove(name)?;
        Some((place, self.held.remove(&place)?))
    }

    /// Puts a lease into a place, which is free.
    pub(super) fn put(&mut self, place: usize, held: HeldLease) {
        if let Some(name) = &held.name {
            self.by_name.insert(name.clone(), place);
        }
        self.held.insert(place, held);
    }

    /// The leases, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &HeldLease> {
        self.held.values()
    }

    /// Gives all back.
    pub(super) fn clear(&mut self) {
        self.by_name.clear();
        while self.held.pop_first().is_some() {}
    }
}
