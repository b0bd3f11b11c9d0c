//! State of a run: memory, spaces with their devices, leases, and windows by name.

use super::action::{MAIN, Name};
use super::check::DEFAULT;
use super::code::{self, Code};
use super::file::Scenario;
use super::places::{NoMemory, Places};
use super::report::End;
use super::value::{Place, Size};
use crate::edu::{Edu, EduError};
use crate::machine::{Machine, NotHere};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::host::{GroupFacts, Host};
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::AddressSpace;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use toml::Spanned;

/// How a step failed.
#[derive(Debug)]
pub(super) struct StepError {
    pub code: &'static str,
    pub message: String,
    pub obstacle: bool,
}

impl<E: Code> From<E> for StepError {
    fn from(error: E) -> Self {
        Self { code: error.code(), message: error.to_string(), obstacle: error.is_obstacle() }
    }
}

impl StepError {
    pub(super) fn mismatch(message: String) -> Self {
        Self { code: code::MISMATCH, message, obstacle: false }
    }

    pub(super) fn unknown(message: String) -> Self {
        Self { code: code::UNKNOWN_NAME, message, obstacle: false }
    }
}

/// A space with its open devices.
pub(super) struct Space {
    devices: BTreeMap<usize, Edu>,
    pub space: AddressSpace,
}

pub(super) struct Context<'a> {
    pub machine: &'a Machine,
    pub places: Places,
    pub groups: Vec<GroupFacts>,
    pub registry: Registry,
    pub spaces: BTreeMap<String, Space>,
    pub leases: Leases,
    windows: WindowNames,
    /// Locked bytes when it began.
    locked: u64,
}

/// Why a scenario could not even begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The host does not allow it.
    #[error(transparent)]
    NotHere(#[from] NotHere),
    /// The memory could not be allocated.
    #[error(transparent)]
    Memory(#[from] NoMemory),
}

impl<'a> Context<'a> {
    pub(super) fn new(machine: &'a Machine, scenario: &Scenario) -> Result<Self, StartError> {
        let host = machine.host();
        let groups = machine.groups(scenario.groups())?;
        let places = Places::allocate(machine.memory(), host.page_shift(), &scenario.memory)?;
        let locked = machine.locked();
        let registry = Registry::new(Arc::clone(&host));
        let (spaces, leases, windows) = (BTreeMap::new(), Leases::default(), WindowNames::default());
        Ok(Self { machine, places, groups, registry, spaces, leases, windows, locked })
    }

    /// Returns the locked bytes that were not locked at the start.
    pub(super) fn locked(&self) -> u64 {
        self.machine.locked().saturating_sub(self.locked)
    }

    /// Releases everything, and checks whether anything is left.
    pub(super) fn end(mut self) -> End {
        self.spaces.clear();
        self.leases.clear();
        let damage = self.machine.damage().iter().map(|damage| self.places.rewrite(damage)).collect();
        End { locked: self.locked(), damage }
    }

    /// Returns the space of that name, and creates it when a group is first attached to it.
    pub(super) fn space_or_new(&mut self, name: &Option<Name>) -> &mut Space {
        let registry = &self.registry;
        let new = || Space { devices: BTreeMap::new(), space: AddressSpace::new(registry) };
        self.spaces.entry(space_name(name).to_owned()).or_insert_with(new)
    }

    pub(super) fn space(&self, name: &Option<Name>) -> Result<&AddressSpace, StepError> {
        let name = space_name(name);
        let found = self.spaces.get(name).map(|space| &space.space);
        found.ok_or_else(|| no_space(name))
    }

    /// Returns the group that the scenario numbers `index`.
    pub(super) fn group(&self, index: usize) -> Result<Group, StepError> {
        let found = self.groups.get(index).map(|group| group.number);
        found.ok_or_else(|| no_group(index))
    }

    /// Gives a name to the window that starts there.
    pub(super) fn name_window(&mut self, name: &Option<Name>, space: &Option<Name>, start: Iova) {
        if let Some(name) = name {
            self.windows.add(name.get_ref(), space_name(space), start);
        }
    }

    /// Returns the name of the window of a space that starts there.
    pub(super) fn window_name(&self, space: &str, start: Iova) -> Option<&str> {
        self.windows.name(space, start)
    }

    /// Returns a bus address.
    pub(super) fn at(&self, space: &AddressSpace, place: &Spanned<Place>) -> Result<Iova, StepError> {
        let Place { window, offset } = place.get_ref();
        let start = match window.as_deref() {
            None => Iova(0),
            Some(DEFAULT) => {
                let default = space.status().facts.and_then(|facts| facts.default);
                default
                    .map(|range| range.start())
                    .ok_or_else(|| StepError::unknown("there is no default window".into()))?
            }
            Some(name) => {
                let found = self.windows.start(name);
                found.ok_or_else(|| StepError::unknown(format!("no step has made a window {name:?}")))?
            }
        };
        match start.0.checked_add(*offset) {
            Some(at) => Ok(Iova(at)),
            None => Err(spapr_iommu::addr::RangeError::Wraps { start: start.0, len: *offset }.into()),
        }
    }

    /// Returns a stretch of bus addresses.
    pub(super) fn range(
        &self,
        space: &AddressSpace,
        place: &Spanned<Place>,
        size: Size,
    ) -> Result<IovaRange, StepError> {
        Ok(IovaRange::new(self.at(space, place)?, size.0)?)
    }

    /// Returns a device for DMA. It is opened when first needed, since closing resets it, which
    /// takes seconds on some machines.
    pub(super) fn device(&mut self, space: &Option<Name>, index: usize) -> Result<&Edu, StepError> {
        let Some(group) = self.groups.get(index) else { return Err(no_group(index)) };
        let name = space_name(space);
        let Some(space) = self.spaces.get_mut(name) else {
            return Err(no_space(name));
        };
        if !space.devices.contains_key(&index) {
            let edu = Edu::open(&space.space, group, index)?;
            space.devices.insert(index, edu);
        }
        space.devices.get(&index).ok_or_else(|| EduError::None { group: index }.into())
    }

    /// Closes the devices of a group, without which it cannot be detached.
    pub(super) fn close_devices(&mut self, space: &Option<Name>, index: usize) {
        if let Some(space) = self.spaces.get_mut(space_name(space)) {
            space.devices.remove(&index);
        }
    }

    /// Formats a message: memory by name, groups as the scenario numbers them. An obstacle keeps
    /// its numbers: the user needs them.
    pub(super) fn message(&self, error: &StepError) -> String {
        let message = self.places.rewrite(&error.message);
        if error.obstacle { message } else { count_groups(&message, &self.groups) }
    }
}

fn no_group(index: usize) -> StepError {
    StepError::unknown(format!("this host has no group {index} with vfio-pci"))
}

fn no_space(name: &str) -> StepError {
    StepError::unknown(format!("no group was attached to a space {name:?}"))
}

fn space_name(name: &Option<Name>) -> &str {
    name.as_ref().map_or(MAIN, |name| name.get_ref())
}

/// Replaces group numbers by the scenario's numbers.
fn count_groups(message: &str, groups: &[GroupFacts]) -> String {
    const WORD: &str = "group ";
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    while let Some(at) = rest.find(WORD) {
        let (before, number) = rest.split_at(at + WORD.len());
        let digits = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
        let index =
            number[..digits].parse().ok().and_then(|number: u32| groups.iter().position(|g| g.number == Group(number)));
        out.push_str(before);
        match index {
            Some(index) => out.push_str(&index.to_string()),
            None => out.push_str(&number[..digits]),
        }
        rest = &number[digits..];
    }
    out + rest
}

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

    /// Removes the lease of that name, and returns it with its place.
    pub(super) fn take(&mut self, name: &str) -> Option<(usize, HeldLease)> {
        let place = self.by_name.remove(name)?;
        Some((place, self.held.remove(&place)?))
    }

    /// Puts a lease into a free place.
    pub(super) fn put(&mut self, place: usize, held: HeldLease) {
        if let Some(name) = &held.name {
            self.by_name.insert(name.clone(), place);
        }
        self.held.insert(place, held);
    }

    /// Returns the leases, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &HeldLease> {
        self.held.values()
    }

    /// Releases all, oldest first.
    pub(super) fn clear(&mut self) {
        self.by_name.clear();
        while self.held.pop_first().is_some() {}
    }
}

/// Names of windows, which a file gives once each.
#[derive(Default)]
pub(super) struct WindowNames {
    starts: HashMap<String, Iova>,
    /// By space and start; of several windows that started there, the last.
    names: HashMap<(String, Iova), String>,
}

impl WindowNames {
    /// Names the window of a space that starts there.
    pub(super) fn add(&mut self, name: &str, space: &str, start: Iova) {
        self.starts.insert(name.to_owned(), start);
        self.names.insert((space.to_owned(), start), name.to_owned());
    }

    /// Returns where the window of that name starts.
    pub(super) fn start(&self, name: &str) -> Option<Iova> {
        self.starts.get(name).copied()
    }

    /// Returns the name of the window of a space that starts there.
    pub(super) fn name(&self, space: &str, start: Iova) -> Option<&str> {
        self.names.get(&(space.to_owned(), start)).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_counted() {
        let group = |number| GroupFacts { number, devices: Vec::new() };
        let groups = [group(Group(7)), group(Group(12))];
        assert_eq!(
            count_groups("group 12 and group 7, group 3: no group", &groups),
            "group 1 and group 0, group 3: no group"
        );
    }
}
