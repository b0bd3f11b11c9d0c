//! Attaches and detaches groups, and takes everything down in order.
//!
//! When a container closes, its tables must be empty and its regions unregistered: unmap, unpin,
//! UNREGISTER, close the groups, close the container. A group that leaves a shared container takes
//! all mappings of that container with it (the kernel clears the tables they share), so these are
//! mapped again.

use super::container::Container;
use super::{AddressSpace, AttachError, State};
use super::{apply, stale};
use crate::host::{Host, Platform, calls};
use crate::map::{IntervalMap, Mapping};
use crate::registry::{RegionId, Registry};
use crate::window::{WindowFacts, Windows};
use std::sync::Arc;

impl AddressSpace {
    /// Attaches a group with its own container: its devices see everything that is mapped, and the
    /// other groups are not affected when it leaves.
    pub fn attach(&self, group: u32) -> Result<(), AttachError> {
        let state = &mut self.0.state.lock().state;
        refuse_attached(state, group)?;
        let mut container = Container::open(self.0.registry.host(), group)?;
        let facts = container.facts()?;
        if state.facts.is_some_and(|ours| !alike(&ours, &facts)) {
            return Err(AttachError::OtherFacts { group });
        }
        self.0.registry.add_container(container.fd())?;
        let first = state.containers.is_empty();
        if first {
            state.facts = Some(facts);
        }
        if !first && let Err(error) = self.bring_up(state, &mut container, group) {
            // Closing the tables unmaps whatever was mapped; nothing was pinned for it.
            self.0.registry.remove_container(container.fd(), false);
            return Err(error);
        }
        state.container_files.push(container.fd());
        state.containers.push(container);
        self.settle(state);
        Ok(())
    }

    /// Attaches a group in another group's container, so that one set of ioctls serves both. Only
    /// on powernv. When one of them is detached, the other's mappings are absent until they are
    /// mapped again.
    pub fn attach_beside(&self, group: u32, other: u32) -> Result<(), AttachError> {
        let state = &mut self.0.state.lock().state;
        refuse_attached(state, group)?;
        if state.facts.is_some_and(|facts| facts.platform == Platform::Pseries) {
            return Err(AttachError::OneGroup { platform: Platform::Pseries, group });
        }
        let container = state.containers.iter_mut().find(|container| container.group(other).is_some());
        let container = container.ok_or(AttachError::NotAttached { group: other })?;
        container.add(group)?;
        // The kernel answers for the group that was attached last.
        match container.facts() {
            Ok(theirs) if state.facts.is_some_and(|ours| alike(&ours, &theirs)) => Ok(()),
            result => {
                self.detach_shared(state, group)?;
                result.and(Err(AttachError::OtherFacts { group }))
            }
        }
    }

    /// Detaches a group. The devices of the other groups see their mappings as before. Detaching
    /// the last group removes all mappings and windows; leases stay.
    pub fn detach(&self, group: u32) -> Result<(), AttachError> {
        let state = &mut self.0.state.lock().state;
        let found = state.containers.iter().position(|container| container.group(group).is_some());
        let Some(at) = found else { return Err(AttachError::NotAttached { group }) };
        let count = state.containers[at].group(group).map_or(0, |group| Arc::strong_count(&group.devices) - 1);
        if count > 0 {
            return Err(AttachError::DevicesOpen { group, count });
        }
        if state.containers[at].groups.len() > 1 {
            return self.detach_shared(state, group);
        }
        if state.containers.len() == 1 {
            let mappings = std::mem::take(&mut *self.0.mappings.write());
            close_all(&self.0.registry, self.host(), state, &mappings);
            self.settle(state);
            return Ok(());
        }
        let fd = state.containers[at].fd();
        stale::clear(&self.0.registry, state);
        let clean = self.clear(state, at);
        self.0.registry.remove_container(fd, clean);
        state.container_files.remove(at);
        state.containers.remove(at);
        self.settle(state);
        Ok(())
    }

    /// Removes a group from a container that others use, and maps again what the kernel cleared.
    fn detach_shared(&self, state: &mut State, group: u32) -> Result<(), AttachError> {
        let found = state.containers.iter_mut().find(|container| container.group(group).is_some());
        let Some(container) = found else { return Err(AttachError::NotAttached { group }) };
        let fd = container.fd();
        if let Some(leaving) = container.group(group) {
            calls::group_unset_container(self.host(), leaving.file.fd())?;
        }
        container.groups.retain(|other| other.number != group);
        let replayed = {
            let mappings = self.0.mappings.read();
            apply::replay(self.host(), fd, with_pages(&mappings, &state.windows))
        };
        replayed.map_err(|mut error| {
            self.drop_lost(state, &mut error);
            error.into()
        })
    }

    /// Gives a joining container the windows, regions and mappings of the others.
    fn bring_up(&self, state: &State, container: &mut Container, group: u32) -> Result<(), AttachError> {
        let mappings = self.0.mappings.read();
        let mut regions: Vec<RegionId> = mappings.iter().map(|mapping| mapping.region).collect();
        regions.sort_unstable();
        regions.dedup();
        for region in regions {
            self.0.registry.register_in(region, container.fd())?;
        }
        let _charging = self.make_alike(state, container).map_err(|why| AttachError::Windows { group, why })?;
        apply::replay(self.host(), container.fd(), with_pages(&mappings, &state.windows))?;
        // The first MAP created the default window, unless a CREATE had done so.
        container.default_waits &= mappings.is_empty();
        Ok(())
    }

    /// Unmaps everything in one container. Returns whether nothing is mapped there any longer.
    fn clear(&self, state: &State, at: usize) -> bool {
        is_sure(state) && clear(self.host(), &state.containers[at], &state.windows, &self.0.mappings.read())
    }
}

/// Returns whether the map holds everything that devices can reach.
fn is_sure(state: &State) -> bool {
    state.stale.is_empty() && !state.interrupted && state.kvm_pins.is_empty()
}

fn refuse_attached(state: &State, group: u32) -> Result<(), AttachError> {
    match state.containers.iter().any(|container| container.group(group).is_some()) {
        true => Err(AttachError::AttachedAlready { group }),
        false => Ok(()),
    }
}

/// Returns whether two groups can have the same windows.
fn alike(ours: &WindowFacts, theirs: &WindowFacts) -> bool {
    (ours.platform, ours.default, ours.pages, ours.windows)
        == (theirs.platform, theirs.default, theirs.pages, theirs.windows)
}

fn with_pages<'a>(
    mappings: &'a IntervalMap<RegionId>,
    windows: &'a Windows,
) -> impl Iterator<Item = (Mapping<RegionId>, crate::addr::PageShift)> + 'a {
    mappings.iter().filter_map(|mapping| Some((mapping, windows.containing(mapping.iova)?.page)))
}

fn clear(host: &dyn Host, container: &Container, windows: &Windows, mappings: &IntervalMap<RegionId>) -> bool {
    windows.iter().all(|window| {
        let mapped: Vec<_> = mappings.overlapping(window.range).collect();
        apply::clear(host, container.fd(), &mapped, window.page).is_ok()
    })
}

/// Takes down a whole space. `mappings` is what was mapped.
pub(super) fn close_all(registry: &Registry, host: &dyn Host, state: &mut State, mappings: &IntervalMap<RegionId>) {
    stale::clear(registry, state);
    let clean =
        is_sure(state) && state.containers.iter().all(|container| clear(host, container, &state.windows, mappings));
    let counts = || mappings.iter().map(|mapping| (mapping.region, mapping.iova.len()));
    if clean {
        registry.unpin(counts());
    }
    for container in state.containers.drain(..) {
        registry.remove_container(container.fd(), clean);
    }
    if !clean {
        let stale = state.stale.iter().map(|mapping| (mapping.region, mapping.iova.len()));
        registry.unpin(counts().chain(stale).chain(state.kvm_pins.parts()));
    }
    *state = State::default();
}
