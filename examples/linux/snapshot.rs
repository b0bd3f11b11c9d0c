//! What the guest's devices can reach at a moment: a guest that unloads its drivers leaves that
//! unchanged, whatever they did.

use super::machine::Machine;
use spapr_iommu::host::Host;
use std::fmt;

/// Amounts at a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    tables: usize,
    /// Entries of all tables that lead somewhere.
    entries: u64,
    windows: usize,
    /// Bytes mapped for devices.
    mapped: u64,
    /// Bytes locked.
    locked: u64,
}

impl Snapshot {
    /// Takes a snapshot.
    pub(crate) fn take(machine: &Machine) -> Self {
        let tables = machine.phb.tables();
        let mut entries = 0;
        tables.iter().for_each(|table| table.each(&mut |_, _| entries += 1));
        let space = machine.phb.space();
        let locked = machine.registry.host().memlock().map_or(0, |memlock| memlock.locked);
        let windows = space.status().windows.len();
        Self { tables: tables.len(), entries, windows, mapped: space.mapped().1, locked }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tables, entries, windows, mapped, locked } = self;
        write!(f, "{tables} tables with {entries} entries, {windows} windows, {mapped} bytes mapped, {locked} locked")
    }
}
