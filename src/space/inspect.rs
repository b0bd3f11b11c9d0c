//! What an inspection reads of an address space.
//!
//! It holds the parts it reads, and never the space: a space that ends during an inspection is
//! taken down by the thread that drops it, as always.

use super::{AddressSpace, Counters, GroupStatus, Locked, SpaceStats};
use crate::addr::{Iova, IovaRange};
use crate::map::{IntervalMap, Mapping};
use crate::registry::RegionId;
use crate::stats::Padded;
use crate::window::{DefaultWindow, Window, WindowFacts};
use parking_lot::{Mutex, RwLock};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// An address space as seen by an inspection.
#[derive(Clone)]
pub(crate) struct Watched {
    state: Weak<Padded<Mutex<Locked>>>,
    mappings: Weak<Padded<RwLock<IntervalMap<RegionId>>>>,
    counters: Weak<Padded<Counters>>,
}

/// Groups and windows of a space.
pub(crate) struct WatchedWindows {
    pub facts: Option<WindowFacts>,
    pub groups: Vec<GroupStatus>,
    pub default: DefaultWindow,
    pub windows: Vec<Window>,
    /// Number of mappings that the kernel failed to remove.
    pub stale: usize,
}

impl AddressSpace {
    /// Returns a handle for inspections.
    pub(crate) fn watched(&self) -> Watched {
        Watched {
            state: Arc::downgrade(&self.0.state),
            mappings: Arc::downgrade(&self.0.mappings),
            counters: Arc::downgrade(&self.0.counters),
        }
    }
}

impl Watched {
    /// Returns whether the space still exists.
    pub(crate) fn is_alive(&self) -> bool {
        self.state.strong_count() > 0
    }

    /// Returns groups and windows; `None` if a kernel call for the space takes longer than
    /// `patience`, or the space is gone.
    pub(crate) fn windows(&self, patience: Duration) -> Option<WatchedWindows> {
        let state = self.state.upgrade()?;
        let locked = state.try_lock_for(patience)?;
        let state = &locked.state;
        let in_container = |(container, groups): (usize, &super::Container)| {
            let status = move |group: &super::groups::AttachedGroup| GroupStatus { group: group.number, container };
            groups.groups.iter().map(status).collect::<Vec<_>>()
        };
        Some(WatchedWindows {
            facts: state.facts,
            groups: state.containers.iter().enumerate().flat_map(in_container).collect(),
            default: if state.containers.is_empty() { DefaultWindow::Gone } else { state.windows.default },
            windows: state.windows.iter().copied().collect(),
            stale: state.stale.iter().count(),
        })
    }

    /// Appends up to `most` mappings from a bus address on, in order, with one short lock.
    pub(crate) fn mappings_from(&self, from: Iova, most: usize, found: &mut Vec<Mapping<RegionId>>) {
        if let Some(mappings) = self.mappings.upgrade()
            && let Some(rest) = IovaRange::between(from, Iova(u64::MAX))
        {
            found.extend(mappings.read().overlapping(rest).take(most));
        }
    }

    /// Returns the counters of maps and unmaps.
    pub(crate) fn stats(&self) -> Option<SpaceStats> {
        self.counters.upgrade().map(|counters| counters.get())
    }
}
