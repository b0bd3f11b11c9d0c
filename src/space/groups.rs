//! Groups and their containers: attaches and detaches them, and takes everything down in order.
//!
//! When a container closes, its tables must be empty and its regions unregistered: unmap, unpin,
//! UNREGISTER, close the groups, close the container. A group that leaves a shared container takes
//! all mappings of that container with it (the kernel clears the tables they share), so these are
//! mapped again.

use super::{AddressSpace, AttachError, State, apply};
use crate::addr::{Iova, PageShift};
use crate::host::{Errno, Fd, File, Host, Node, Obstacle, Platform, calls};
use crate::map::{IntervalMap, Mapping};
use crate::pci::Group;
use crate::registry::{RegionId, Registry};
use crate::uapi::{spapr, vfio};
use crate::window::{WindowFacts, Windows};
use std::sync::Arc;

/// An attached group. Its file is closed before the container's.
#[derive(Debug)]
pub(super) struct AttachedGroup {
    pub number: Group,
    pub file: File,
    /// Counts the handles of its devices.
    pub devices: Arc<()>,
}

/// A container with its groups. If nothing is mapped and registered, closing it leaves no trace in
/// the kernel.
#[derive(Debug)]
pub(super) struct Container {
    pub groups: Vec<AttachedGroup>,
    /// Whether the default window is pending here: the kernel creates it at the next call that may
    /// need it.
    pub default_pending: bool,
    /// Windows that the kernel refused to remove after a failed creation. Their removal is retried
    /// before the next creation.
    pub leftover_windows: Vec<Iova>,
    container: File,
}

fn open(host: &Arc<dyn Host>, node: Node<'_>, what: String) -> Result<File, AttachError> {
    File::open(host, node).map_err(|errno| match (host.obstacle(node), node, errno) {
        (Some(obstacle), ..) => obstacle.into(),
        // This process has it open, in another address space.
        (None, Node::Group(group), Errno::EBUSY) => Obstacle::Busy { group }.into(),
        _ => AttachError::Open { what, errno },
    })
}

impl AttachedGroup {
    /// Opens a group and puts it in a container. Returns whether it was in one already, which is
    /// possible for files that were handed in and whose devices were opened before.
    fn open_in(host: &Arc<dyn Host>, number: Group, container: Fd) -> Result<(Self, bool), AttachError> {
        let node = Node::Group(number);
        let file = open(host, node, format!("IOMMU group {number}"))?;
        let status = calls::group_status(host.as_ref(), file.fd())?;
        if status.flags & vfio::GROUP_FLAGS_VIABLE == 0
            && let Some(obstacle) = host.obstacle(node)
        {
            return Err(obstacle.into());
        }
        let mut there = status.flags & vfio::GROUP_FLAGS_CONTAINER_SET != 0;
        if there {
            match calls::group_unset_container(host.as_ref(), file.fd()) {
                Ok(()) => there = false,
                Err(error) if error.errno() == Some(Errno::EBUSY) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if !there {
            calls::group_set_container(host.as_ref(), file.fd(), container)?;
        }
        Ok((Self { number, file, devices: Arc::new(()) }, there))
    }

    /// Returns the number of open handles of its devices.
    pub(super) fn open_devices(&self) -> usize {
        Arc::strong_count(&self.devices) - 1
    }
}

impl Container {
    /// Opens a new container for the group and gives it the v2 driver.
    pub(super) fn open(host: &Arc<dyn Host>, number: Group) -> Result<Self, AttachError> {
        let container = open(host, Node::Container, "a VFIO container".into())?;
        let fd = container.fd();
        let version = calls::api_version(host.as_ref(), fd)?;
        if version != vfio::API_VERSION {
            return Err(AttachError::Version { version });
        }
        if calls::check_extension(host.as_ref(), fd, spapr::TCE_V2_IOMMU)? == 0 {
            return Err(AttachError::NoV2);
        }
        let (group, there) = AttachedGroup::open_in(host, number, fd)?;
        let container = Self { groups: vec![group], default_pending: true, leftover_windows: Vec::new(), container };
        // A group with open devices is in a container with its driver.
        if !there {
            calls::set_iommu(host.as_ref(), fd, spapr::TCE_V2_IOMMU)?;
        }
        Ok(container)
    }

    /// Adds a group to this container.
    pub(super) fn add(&mut self, number: Group) -> Result<(), AttachError> {
        let (group, there) = AttachedGroup::open_in(self.container.host(), number, self.fd())?;
        if there {
            // The kernel does not say in which container.
            return Err(AttachError::InContainer { group: number });
        }
        self.groups.push(group);
        Ok(())
    }

    /// Returns the container's file.
    pub(super) fn fd(&self) -> Fd {
        self.container.fd()
    }

    pub(super) fn group(&self, number: Group) -> Option<&AttachedGroup> {
        self.groups.iter().find(|group| group.number == number)
    }

    /// Reads the kernel's information on the container's windows.
    pub(super) fn facts(&self) -> Result<WindowFacts, AttachError> {
        let host = self.container.host();
        let platform = host.platform().ok_or(AttachError::NoPlatform)?;
        let info = calls::tce_info(host.as_ref(), self.fd())?;
        Ok(WindowFacts::new(platform, host.page_shift(), &info))
    }
}

impl AddressSpace {
    /// Attaches a group with its own container: its devices see everything that is mapped, and the
    /// other groups are not affected when it leaves.
    pub fn attach(&self, group: Group) -> Result<(), AttachError> {
        let state = &mut self.0.state.lock().state;
        check_not_attached(state, group)?;
        let mut container = Container::open(self.0.registry.host(), group)?;
        let facts = container.facts()?;
        if state.facts.is_some_and(|ours| !same_windows(&ours, &facts)) {
            return Err(AttachError::OtherFacts { group });
        }
        self.0.registry.add_container(container.fd())?;
        let first = state.containers.is_empty();
        if first {
            state.facts = Some(facts);
        }
        if !first && let Err(error) = self.bring_up(state, &mut container, group) {
            // Closing the container unmaps everything; nothing was pinned for it.
            self.0.registry.remove_container(container.fd(), false);
            return Err(error);
        }
        state.container_files.push(container.fd());
        state.containers.push(container);
        // It may lack regions.
        state.pinner.recheck();
        self.update_promise(state);
        Ok(())
    }

    /// Attaches a group in another group's container, so that one set of ioctls serves both. Only
    /// on powernv. When one of them is detached, the other's mappings are absent until they are
    /// mapped again.
    pub fn attach_beside(&self, group: Group, other: Group) -> Result<(), AttachError> {
        let state = &mut self.0.state.lock().state;
        check_not_attached(state, group)?;
        if state.facts.is_some_and(|facts| facts.platform == Platform::Pseries) {
            return Err(AttachError::OneGroup { platform: Platform::Pseries, group });
        }
        let container = state.containers.iter_mut().find(|container| container.group(other).is_some());
        let container = container.ok_or(AttachError::NotAttached { group: other })?;
        container.add(group)?;
        // The kernel reports the facts of the group attached last.
        match container.facts() {
            Ok(theirs) if state.facts.is_some_and(|ours| same_windows(&ours, &theirs)) => Ok(()),
            result => {
                self.detach_shared(state, group)?;
                result.and(Err(AttachError::OtherFacts { group }))
            }
        }
    }

    /// Detaches a group. The devices of the other groups see their mappings as before. Detaching
    /// the last group removes all mappings and windows; leases stay.
    pub fn detach(&self, group: Group) -> Result<(), AttachError> {
        let state = &mut self.0.state.lock().state;
        let attached = |(at, container): (usize, &Container)| Some((at, container.group(group)?.open_devices()));
        let found = state.containers.iter().enumerate().find_map(attached);
        let Some((at, count)) = found else { return Err(AttachError::NotAttached { group }) };
        if count > 0 {
            return Err(AttachError::DevicesOpen { group, count });
        }
        if state.containers[at].groups.len() > 1 {
            return self.detach_shared(state, group);
        }
        if state.containers.len() == 1 {
            let mappings = std::mem::take(&mut *self.0.mappings.write());
            close_all(&self.0.registry, self.host(), state, &mappings);
            self.update_promise(state);
            return Ok(());
        }
        let fd = state.containers[at].fd();
        apply::clear_stale(&self.0.registry, state);
        let clean = self.clear(state, at);
        self.0.registry.remove_container(fd, clean);
        state.container_files.remove(at);
        state.containers.remove(at);
        self.update_promise(state);
        Ok(())
    }

    /// Removes a group from a container that others use, and maps again what the kernel cleared.
    fn detach_shared(&self, state: &mut State, group: Group) -> Result<(), AttachError> {
        let at = |container: &Container| container.groups.iter().position(|attached| attached.number == group);
        let found = state.containers.iter_mut().find_map(|container| at(container).map(|at| (container, at)));
        let Some((container, at)) = found else { return Err(AttachError::NotAttached { group }) };
        let fd = container.fd();
        calls::group_unset_container(self.host(), container.groups[at].file.fd())?;
        container.groups.remove(at);
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
    fn bring_up(&self, state: &State, container: &mut Container, group: Group) -> Result<(), AttachError> {
        let mappings = self.0.mappings.read();
        let mut regions: Vec<RegionId> = mappings.iter().map(|mapping| mapping.region).collect();
        regions.sort_unstable();
        regions.dedup();
        for region in regions {
            self.0.registry.register_in(region, container.fd())?;
        }
        let _charging = self.replicate_windows(state, container).map_err(|why| AttachError::Windows { group, why })?;
        apply::replay(self.host(), container.fd(), with_pages(&mappings, &state.windows))?;
        // The first MAP created the default window, unless a CREATE had done so.
        container.default_pending &= mappings.is_empty();
        Ok(())
    }

    /// Unmaps everything in one container. Returns whether nothing is mapped there any longer.
    fn clear(&self, state: &State, at: usize) -> bool {
        map_is_complete(state) && clear(self.host(), &state.containers[at], &state.windows, &self.0.mappings.read())
    }
}

/// Returns whether the map holds everything that devices can reach.
fn map_is_complete(state: &State) -> bool {
    state.stale.is_empty() && !state.interrupted && state.kvm_pins.is_empty()
}

fn check_not_attached(state: &State, group: Group) -> Result<(), AttachError> {
    if state.containers.iter().any(|container| container.group(group).is_some()) {
        return Err(AttachError::AttachedAlready { group });
    }
    Ok(())
}

/// Returns whether two groups can have the same windows.
fn same_windows(ours: &WindowFacts, theirs: &WindowFacts) -> bool {
    (ours.platform, ours.default, ours.pages, ours.windows)
        == (theirs.platform, theirs.default, theirs.pages, theirs.windows)
}

fn with_pages<'a>(
    mappings: &'a IntervalMap<RegionId>,
    windows: &'a Windows,
) -> impl Iterator<Item = (Mapping<RegionId>, PageShift)> + 'a {
    mappings.iter().filter_map(|mapping| Some((mapping, windows.containing(mapping.iova)?.page)))
}

fn clear(host: &dyn Host, container: &Container, windows: &Windows, mappings: &IntervalMap<RegionId>) -> bool {
    windows.iter().all(|window| {
        let mapped: Vec<_> = mappings.overlapping(window.range).collect();
        apply::clear(host, container.fd(), &mapped, window.page).is_ok()
    })
}

/// Takes down a whole space with its `mappings`.
pub(super) fn close_all(registry: &Registry, host: &dyn Host, state: &mut State, mappings: &IntervalMap<RegionId>) {
    apply::clear_stale(registry, state);
    let empty = |container: &Container| clear(host, container, &state.windows, mappings);
    let clean = map_is_complete(state) && state.containers.iter().all(empty);
    let counts = || mappings.iter().map(|mapping| (mapping.region, mapping.iova.len()));
    if clean {
        registry.unpin_rest(&mut state.pinner, counts());
    }
    for container in state.containers.drain(..) {
        registry.remove_container(container.fd(), clean);
    }
    if !clean {
        let stale = state.stale.iter().map(|mapping| (mapping.region, mapping.iova.len()));
        registry.unpin_rest(&mut state.pinner, counts().chain(stale).chain(state.kvm_pins.parts()));
    }
    *state = State::default();
}
