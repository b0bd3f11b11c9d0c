//! Address spaces: what the devices of one or more containers see.
//!
//! The heart of the crate. It plans and creates windows, maps and unmaps, attaches and detaches
//! groups, and keeps all its containers alike, so that all their devices see the same memory at the
//! same bus addresses.
//!
//! # The path of a map
//! [`AddressSpace::map`] checks the request against windows and map, plans the window it lacks,
//! pins its memory in the registry, creates the window, and hands runs to `apply`, the one path to
//! the kernel. On failure `apply` restores the earlier mappings; on success map and region counts
//! change together.
//!
//! # Locking
//! `state` is held by whatever calls the kernel: MAP and UNMAP take no lock there, and must not
//! meet a change of windows or groups. Only its holder has `mappings` upgradable, which excludes no
//! reader, or for writing: for the moment in which the map changes, and in which no other lock is
//! taken, so that [`AddressSpace::translate`] never waits for an ioctl. Order: `state`, `mappings`,
//! the registry's locks. Spaces wait for each other only while a window or memory is being charged
//! to the process.

mod apply;
mod charge;
mod device;
mod error;
mod groups;
#[cfg(feature = "inspect")]
mod inspect;
mod kvm;
mod map;
mod windows;

pub(crate) use device::Driven;
pub use device::{DeviceArea, DeviceRegion, GroupFile, RawDevice};
pub use error::{AttachError, MapError, NotRestored, UnmapError, WindowError};
#[cfg(feature = "inspect")]
pub(crate) use inspect::{Watched, WatchedWindows};
pub use map::{MapRequest, Overlap, SpaceStats};

use crate::addr::{Iova, IovaRange, UserRange};
use crate::host::{Fd, Host, Process};
use crate::map::{IntervalMap, Mapping, Translation};
use crate::pci::Group;
use crate::registry::{Pinner, Promise, RegionId, Registry, ReverseMap};
use crate::stats::Padded;
use crate::window::{DefaultWindow, Window, WindowFacts, Windows};
use apply::StaleMappings;
use groups::Container;
use kvm::KvmPins;
use map::{Counters, Scratch};
use parking_lot::{Mutex, RwLock};
use rangemap::RangeSet;
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};

/// One DMA address space over one or more containers.
///
/// `Send` and `Sync`. Dropping it (and the devices taken from it) takes everything down in the
/// order that leaks nothing, also while a panic unwinds; when the process is killed, the kernel
/// does the same, since every region is registered in each container that maps it.
#[derive(Clone)]
pub struct AddressSpace(Arc<Inner>);

impl core::fmt::Debug for AddressSpace {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.fmt(f)
    }
}

/// One line: there may be many mappings.
impl core::fmt::Debug for Inner {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // The printing thread may hold a lock itself.
        match (self.state.try_lock(), self.mappings.try_read()) {
            (Some(locked), Some(mappings)) => {
                let (containers, windows) = (locked.state.container_files.len(), locked.state.windows.iter().count());
                write!(f, "AddressSpace({containers} containers, {windows} windows, {} mappings)", mappings.len())
            }
            _ => f.write_str("AddressSpace(busy)"),
        }
    }
}

/// What an inspection reads is held on its own: an inspection that outlasts the space must not be
/// the one that takes it down.
struct Inner {
    registry: Registry,
    state: Arc<Padded<Mutex<Locked>>>,
    mappings: Arc<Padded<RwLock<IntervalMap<RegionId>>>>,
    /// Bytes the pending default window will lock at its first map, while something is reserved in
    /// it.
    promise: Promise,
    /// Addresses of devices that have a driver in this process. Never locked together with another
    /// lock.
    driven: Mutex<BTreeSet<String>>,
    /// Process that created it.
    process: Process,
    counters: Arc<Padded<Counters>>,
}

#[derive(Debug, Default)]
struct State {
    containers: Vec<Container>,
    /// Files of the containers in `containers`.
    container_files: Vec<Fd>,
    facts: Option<WindowFacts>,
    windows: Windows,
    /// Ranges the caller reserved: they stay mappable until unreserved.
    reserved: RangeSet<u64>,
    /// Mappings the kernel failed to remove. Devices may still reach them, so they stay pinned and
    /// are retried.
    stale: StaleMappings,
    /// Set around kernel calls; still set means a panic interrupted one.
    interrupted: bool,
    /// Pinned memory that KVM may map here itself.
    kvm_pins: KvmPins,
    /// Counts all that is pinned for this space.
    pinner: Pinner,
}

/// The data under the lock: the state, and buffers reused by every call.
#[derive(Debug, Default)]
struct Locked {
    state: State,
    scratch: Scratch,
}

/// Status of an attached group: its container in this space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Group number.
    pub group: Group,
    /// Number of its container in the space, from 0.
    pub container: usize,
}

/// Status of a space, for people and programs to inspect.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SpaceStatus {
    /// The host's window facts; `None` while no group is attached.
    pub facts: Option<WindowFacts>,
    /// Attached groups.
    pub groups: Vec<GroupStatus>,
    /// State of the default window.
    pub default: DefaultWindow,
    /// Windows, with the bytes mapped in each.
    pub windows: Vec<(Window, u64)>,
}

impl AddressSpace {
    /// Creates an address space without groups that maps memory registered with `registry`.
    pub fn new(registry: &Registry) -> Self {
        let inner = Arc::new(Inner {
            registry: registry.clone(),
            state: Arc::default(),
            mappings: Arc::default(),
            promise: registry.promise(),
            driven: Mutex::default(),
            process: Process::current(),
            counters: Default::default(),
        });
        let weak: Weak<Inner> = Arc::downgrade(&inner);
        registry.add_space(weak);
        Self(inner)
    }

    /// Returns the registry it maps from.
    pub fn registry(&self) -> &Registry {
        &self.0.registry
    }

    fn host(&self) -> &dyn Host {
        self.0.registry.host().as_ref()
    }

    /// Translates a bus address; `None` if nothing is mapped there. Never waits for an ioctl.
    pub fn translate(&self, iova: Iova) -> Option<Translation> {
        self.0.mappings.read().translate(iova)
    }

    /// Returns the mappings in `range`, cut to it, in order.
    pub fn mappings_in(&self, range: IovaRange) -> Vec<Mapping<RegionId>> {
        self.0.mappings.read().overlapping(range).collect()
    }

    /// Returns all mappings, in order.
    pub fn mappings(&self) -> Vec<Mapping<RegionId>> {
        self.0.mappings.read().iter().collect()
    }

    /// Returns the stretches of `range` in which nothing is mapped.
    pub fn gaps(&self, range: IovaRange) -> Vec<IovaRange> {
        self.0.mappings.read().gaps(range).collect()
    }

    /// Returns the number of mapped runs, and of mapped bytes.
    pub fn mapped(&self) -> (usize, u64) {
        let mappings = self.0.mappings.read();
        (mappings.len(), mappings.bytes())
    }

    /// Returns the groups and windows.
    pub fn status(&self) -> SpaceStatus {
        let state = &self.0.state.lock().state;
        let mappings = self.0.mappings.read();
        let in_container = |(number, container): (usize, &Container)| {
            container
                .groups
                .iter()
                .map(move |group| GroupStatus { group: group.number, container: number })
                .collect::<Vec<_>>()
        };
        let bytes = |window: &Window| mappings.overlapping(window.range).map(|mapping| mapping.iova.len()).sum();
        SpaceStatus {
            facts: state.facts,
            groups: state.containers.iter().enumerate().flat_map(in_container).collect(),
            default: if state.containers.is_empty() { DefaultWindow::Gone } else { state.windows.default },
            windows: state.windows.iter().map(|window| (*window, bytes(window))).collect(),
        }
    }
}

impl ReverseMap for Inner {
    fn iovas_of(&self, user: UserRange, found: &mut Vec<IovaRange>) {
        // Waits for other threads: mappings being made right now count.
        let locked = self.state.lock();
        for mapping in self.mappings.read().iter().chain(locked.state.stale.iter()) {
            let Some(part) = mapping.user_range().and_then(|there| there.intersection(&user)) else { continue };
            let offset = part.start().0 - mapping.user.0;
            // All of the mapping rather than nothing: a release must not miss it.
            found.push(mapping.iova.subrange(offset, part.len()).unwrap_or(mapping.iova));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if !self.process.is_current() {
            // In a child of `fork` everything attached and mapped belongs to the parent. Only files
            // are closed.
            return;
        }
        let mut state = std::mem::take(&mut self.state.lock().state);
        let host = Arc::clone(self.registry.host());
        let mappings = std::mem::take(&mut *self.mappings.write());
        groups::close_all(&self.registry, host.as_ref(), &mut state, &mappings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_space_may_be_shared_between_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<AddressSpace>();
        shared::<RawDevice>();
        shared::<Registry>();
        shared::<crate::registry::Lease>();
    }
}
