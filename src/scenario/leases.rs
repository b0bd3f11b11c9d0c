//! The leases that are alive, in the order they were made, and by name.

use crate::registry::Lease;
use std::collections::{BTreeMap, HashMap};

/// A lease and its name.
pub(super) struct Held {
    pub name: Option<String>,
    pub lease: Lease,
}

/// All leases of a scenario.
#[derive(Default)]
pub(super) struct Leases {
    held: BTreeMap<usize, Held>,
    by_name: HashMap<String, usize>,
    /// Leases made so far.
    made: usize,
}

impl Leases {
    /// Adds a lease after all others.
    pub(super) fn add(&mut self, name: Option<String>, lease: Lease) {
        self.put(self.made, Held { name, lease });
        self.made += 1;
    }

    /// Takes out the lease of that name, with its place.
    pub(super) fn take(&mut self, name: &str) -> Option<(usize, Held)> {
        let place = self.by_name.remove(name)?;
        Some((place, self.held.remove(&place)?))
    }

    /// Puts a lease into a place, which is free.
    pub(super) fn put(&mut self, place: usize, held: Held) {
        if let Some(name) = &held.name {
            self.by_name.insert(name.clone(), place);
        }
        self.held.insert(place, held);
    }

    /// The leases, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Held> {
        self.held.values()
    }

    /// Gives all back.
    pub(super) fn clear(&mut self) {
        self.by_name.clear();
        while self.held.pop_first().is_some() {}
    }
}
