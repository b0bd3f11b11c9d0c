//! Differences between machines: windows, their tables and their rules.

mod powernv;
mod pseries;

use super::preset::{Machine, Preset};
use super::table::{Table, WindowKind};
use super::violation::Violation;
use crate::host::{Errno, Platform};

/// Limits of a PE (`struct iommu_table_group`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) start: u32,
    pub(super) size: u32,
    pub(super) pgsizes: u64,
    pub(super) windows: u32,
    pub(super) levels: u32,
}

/// Position of a new table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) kind: WindowKind,
    pub(super) start: u64,
    pub(super) entries: u64,
}

/// A requested window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) slot: usize,
    pub(super) shift: u32,
    pub(super) size: u64,
    pub(super) levels: u32,
}

/// A partitionable endpoint, as kernel and firmware see it. powernv stores nothing here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pe {
    pub(super) group: u32,
    /// Whether it is on `failed_ddw_pdn_list`, which is for ever.
    pub(super) failed: bool,
    /// Whether a dynamic window exists.
    dynamic: bool,
    /// Whether the default window exists.
    default: bool,
}

impl Pe {
    pub(super) fn new(group: u32) -> Self {
        Self { group, failed: false, dynamic: false, default: true }
    }

    /// Removes the host's own windows. What the firmware rebuilds when VFIO releases the PE is the
    /// host's again, and is removed the same way.
    pub(super) fn take_ownership(&mut self) {
        (self.dynamic, self.default) = (false, false);
    }
}

impl Preset {
    pub(super) fn limits(&self) -> Limits {
        match self.machine {
            Machine::Powernv8 => powernv::limits(0x1101_1000),
            Machine::Powernv9 | Machine::Powernv10 => powernv::limits(0x4021_1000),
            Machine::Pseries(firmware) => pseries::limits(firmware),
        }
    }

    /// Bus addresses that the host bridge decodes as 32-bit MMIO; empty on pseries.
    pub(super) fn mmio(&self) -> core::ops::Range<u64> {
        match self.platform() {
            Platform::Powernv => powernv::MMIO,
            Platform::Pseries => 0..0,
        }
    }

    /// Bytes a table is charged for; 0 for what cannot be.
    pub(super) fn table_size(&self, shift: u32, size: u64, levels: u32) -> u64 {
        match self.platform() {
            Platform::Powernv => powernv::table_size(self.page.shift(), shift, size, levels),
            Platform::Pseries => pseries::table_size(shift, size, levels),
        }
    }

    pub(super) fn create_table(
        &self,
        pe: &mut Pe,
        request: Request,
        violations: &mut Vec<Violation>,
    ) -> Result<Geometry, Errno> {
        match self.machine {
            Machine::Pseries(firmware) => pseries::create_table(firmware, pe, request, violations),
            _ => powernv::create_table(self.page.shift(), request),
        }
    }

    /// Programs a table into a group's PE.
    pub(super) fn set_window(&self, group: u32, table: &Table) -> Result<(), Errno> {
        match self.platform() {
            Platform::Powernv => Ok(()),
            Platform::Pseries if table.group == group => Ok(()),
            Platform::Pseries => Err(Errno::EPERM),
        }
    }

    /// Removes a table from a group's PE.
    pub(super) fn unset_window(&self, pe: &mut Pe, table: &Table) {
        if table.group == pe.group {
            match table.kind {
                WindowKind::Phb => {}
                WindowKind::Default => pe.default = false,
                WindowKind::Dynamic => pe.dynamic = false,
            }
        }
    }

    /// Returns the TCE bits for the flags of a MAP.
    pub(super) fn tce_bits(&self, flags: u32) -> u32 {
        match self.platform() {
            // The kernel adds READ wherever WRITE is set.
            Platform::Powernv if flags & 2 != 0 => 3,
            _ => flags & 3,
        }
    }
}
