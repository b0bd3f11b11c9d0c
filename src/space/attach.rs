//! Attaches and detaches groups, and takes everything down in order.
//!
//! When a container closes, its tables must be empty and its regions unregistered: unmap, unpin,
//! UNREGISTER, close the groups, close the container. A group that leaves a shared container takes
//! all mappings of that container with it (the kernel clears the tables they share), so these are
//! mapped again.

use super::member::Member;
use super::{AddressSpace, AttachError, State};
use super::{apply, astray};
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
        let mut member = Member::open(self.0.registry.host(), group)?;
        let facts = member.facts()?;
        if state.facts.is_some_and(|ours| !alike(&ours, &facts)) {
            return Err(AttachError::OtherFacts { group });
        }
        self.0.registry.join(member.fd())?;
        let first = state.members.is_empty();
        if first {
            state.facts = Some(facts);
        }
        if !first && let Err(error) = self.bring_up(state, &mut member, group) {
            // Closing the tables unmaps whatever was mapped; nothing was pinned for it.
            self.0.registry.leave(member.fd(), false);
            return Err(error);
        }
        state.containers.push(member.fd());
        state.members.push(member);
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
        let member = state.members.iter_mut().find(|member| member.group(other).is_some());
        let member = member.ok_or(AttachError::NotAttached { group: other })?;
        member.add(group)?;
        // The kernel answers for the group that was attached last.
        match member.facts() {
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
        let found = state.members.iter().position(|member| member.group(group).is_some());
        let Some(at) = found else { return Err(AttachError::NotAttached { group }) };
        let count = state.members[at].group(group).map_or(0, |group| Arc::strong_count(&group.devices) - 1);
        if count > 0 {
            return Err(AttachError::DevicesOpen { group, count });
        }
        if state.members[at].groups.len() > 1 {
            return self.detach_shared(state, group);
        }
        if state.members.len() == 1 {
            let books = std::mem::take(&mut *self.0.books.write());
            close_all(&self.0.registry, self.host(), state, &books);
            self.settle(state);
            return Ok(());
        }
        let fd = state.members[at].fd();
        astray::clear(&self.0.registry, state);
        let clean = self.clear(state, at);
        self.0.registry.leave(fd, clean);
        state.containers.remove(at);
        state.members.remove(at);
        self.settle(state);
        Ok(())
    }

    /// Removes a group from a container that others use, and maps again what the kernel cleared.
    fn detach_shared(&self, state: &mut State, group: u32) -> Result<(), AttachError> {
        let found = state.members.iter_mut().find(|member| member.group(group).is_some());
        let Some(member) = found else { return Err(AttachError::NotAttached { group }) };
        let fd = member.fd();
        if let Some(leaving) = member.group(group) {
            calls::group_unset_container(self.host(), leaving.file.fd())?;
        }
        member.groups.retain(|other| other.number != group);
        let replayed = {
            let books = self.0.books.read();
            apply::replay(self.host(), fd, with_pages(&books, &state.windows))
        };
        replayed.map_err(|mut error| {
            self.forget(state, &mut error);
            error.into()
        })
    }

    /// Gives a joining container the windows, regions and mappings of the others.
    fn bring_up(&self, state: &State, member: &mut Member, group: u32) -> Result<(), AttachError> {
        let books = self.0.books.read();
        let mut regions: Vec<RegionId> = books.iter().map(|mapping| mapping.region).collect();
        regions.sort_unstable();
        regions.dedup();
        for region in regions {
            self.0.registry.enrol(region, member.fd())?;
        }
        let _charging = self.make_alike(state, member).map_err(|why| AttachError::Windows { group, why })?;
        apply::replay(self.host(), member.fd(), with_pages(&books, &state.windows))?;
        // The first MAP created the default window, unless a CREATE had done so.
        member.default_waits &= books.is_empty();
        Ok(())
    }

    /// Unmaps everything in one container. Returns whether nothing is mapped there any longer.
    fn clear(&self, state: &State, at: usize) -> bool {
        is_sure(state) && clear(self.host(), &state.members[at], &state.windows, &self.0.books.read())
    }
}

/// Returns whether the map holds everything that devices can reach.
fn is_sure(state: &State) -> bool {
    state.astray.is_empty() && !state.unsure && state.held.is_empty()
}

fn refuse_attached(state: &State, group: u32) -> Result<(), AttachError> {
    match state.members.iter().any(|member| member.group(group).is_some()) {
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
    books: &'a IntervalMap<RegionId>,
    windows: &'a Windows,
) -> impl Iterator<Item = (Mapping<RegionId>, crate::addr::PageShift)> + 'a {
    books.iter().filter_map(|mapping| Some((mapping, windows.containing(mapping.iova)?.page)))
}

fn clear(host: &dyn Host, member: &Member, windows: &Windows, books: &IntervalMap<RegionId>) -> bool {
    windows.iter().all(|window| {
        let mapped: Vec<_> = books.overlapping(window.range).collect();
        apply::clear(host, member.fd(), &mapped, window.page).is_ok()
    })
}

/// Takes down a whole space. `books` is what was mapped.
pub(super) fn close_all(registry: &Registry, host: &dyn Host, state: &mut State, books: &IntervalMap<RegionId>) {
    astray::clear(registry, state);
    let clean = is_sure(state) && state.members.iter().all(|member| clear(host, member, &state.windows, books));
    let counts = || books.iter().map(|mapping| (mapping.region, mapping.iova.len()));
    if clean {
        registry.unpin(counts());
    }
    for member in state.members.drain(..) {
        registry.leave(member.fd(), clean);
    }
    if !clean {
        let astray = state.astray.iter().map(|mapping| (mapping.region, mapping.iova.len()));
        registry.unpin(counts().chain(astray).chain(state.held.parts()));
    }
    *state = State::default();
}
