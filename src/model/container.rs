//! A container's driver (`struct tce_container`, `drivers/vfio/vfio_iommu_spapr_tce.c`) and the
//! order its calls check in.
//!
//! The model has one process and no faulting argument, so it has no checks for a foreign `mm` or
//! for EFAULT.

use super::group::Group;
use super::preset::Preset;
use super::process::Process;
use super::region::{Drop, Regions};
use super::table::Table;
use super::violation::Violation;
use crate::host::{Call, Errno, Platform};
use crate::uapi::spapr;
use std::collections::BTreeMap;

/// State shared by all containers.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub(super) preset: Preset,
    pub(super) process: Process,
    pub(super) regions: Regions,
    pub(super) groups: BTreeMap<u32, Group>,
    pub(super) violations: Vec<Violation>,
    /// DMA that no TCE allows freezes the device's PE.
    pub(super) freezes: bool,
}

/// A container: the groups in it, newest first, and the driver once SET_IOMMU bound it.
#[derive(Clone, Debug, Default)]
pub(super) struct Container {
    /// Whether the container's own file is open.
    pub(super) open: bool,
    pub(super) groups: Vec<u32>,
    pub(super) driver: Option<Driver>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Driver {
    pub(super) v2: bool,
    pub(super) enabled: bool,
    pub(super) default_pending: bool,
    /// Whether some call got as far as binding the process, which UNREGISTER requires.
    pub(super) bound: bool,
    /// Host pages that v1's ENABLE charged.
    pub(super) v1_locked: u64,
    pub(super) tables: [Option<Table>; 2],
    /// Attached groups, newest first.
    pub(super) groups: Vec<u32>,
    /// Starts of registered regions, newest first.
    pub(super) registered: Vec<u64>,
}

/// An ioctl's result.
pub(super) type Result<T = i32> = core::result::Result<T, Errno>;

pub(super) fn check_args(argsz: u32, least: usize, flags: u32) -> Result<()> {
    if (argsz as usize) < least || flags != 0 { Err(Errno::EINVAL) } else { Ok(()) }
}

impl Driver {
    pub(super) fn new(v2: bool) -> Self {
        Self { v2, ..Self::default() }
    }

    /// `tce_iommu_ioctl`.
    pub(super) fn call(&mut self, kernel: &mut Kernel, call: &mut Call) -> Result {
        match call {
            Call::TceGetInfo(info) => self.info(kernel, info),
            Call::MapDma(args) => self.map(kernel, args),
            Call::UnmapDma(args) => self.unmap(kernel, args),
            Call::EehPeOp(args) => self.eeh(kernel, args),
            Call::RegisterMemory(args) if self.v2 => self.register(kernel, args),
            Call::UnregisterMemory(args) if self.v2 => self.unregister(kernel, args),
            Call::TceCreate(args) if self.v2 => self.create(kernel, args),
            Call::TceRemove(args) if self.v2 => self.remove(kernel, args),
            Call::Enable if !self.v2 => self.enable(kernel),
            Call::Disable if !self.v2 => self.disable(kernel),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn info(&self, kernel: &Kernel, info: &mut spapr::TceInfo) -> Result {
        if (info.argsz as usize) < 16 {
            return Err(Errno::EINVAL);
        }
        let limits = kernel.preset.limits();
        let ddw = self.v2 && limits.windows != 0;
        info.flags = if ddw { spapr::INFO_DDW } else { 0 };
        info.dma32_window_start = limits.start;
        info.dma32_window_size = limits.size;
        // A caller with the short structure sees the flag but not the data.
        if info.argsz as usize >= size_of::<spapr::TceInfo>() {
            info.ddw = if ddw {
                spapr::TceDdwInfo {
                    pgsizes: limits.pgsizes,
                    max_dynamic_windows_supported: limits.windows,
                    levels: limits.levels,
                }
            } else {
                spapr::TceDdwInfo::default()
            };
        }
        Ok(0)
    }

    fn enable(&mut self, kernel: &mut Kernel) -> Result {
        if self.enabled {
            return Err(Errno::EBUSY);
        }
        self.bound = true;
        let pages = u64::from(kernel.preset.limits().size) >> kernel.process.page.get();
        kernel.process.locked.charge(pages)?;
        (self.v1_locked, self.enabled) = (pages, true);
        Ok(0)
    }

    /// Mappings stay live; only further MAP and UNMAP calls are refused.
    fn disable(&mut self, kernel: &mut Kernel) -> Result {
        kernel.process.locked.uncharge(core::mem::take(&mut self.v1_locked));
        self.enabled = false;
        Ok(0)
    }

    /// `tce_iommu_attach_group`.
    pub(super) fn attach(&mut self, kernel: &mut Kernel, group: u32) -> Result<()> {
        if self.v2 && kernel.preset.limits().windows == 0 {
            return Err(Errno::EINVAL);
        }
        if !self.v2 && !self.groups.is_empty() || self.groups.contains(&group) {
            return Err(Errno::EBUSY);
        }
        // Existing windows are programmed into the new PE, and their entries become visible to it
        // at once.
        let set = self.tables.iter().flatten().try_for_each(|table| kernel.preset.set_window(group, table));
        if self.groups.is_empty() && self.tables[0].is_none() {
            self.default_pending = true;
        }
        set?;
        self.groups.insert(0, group);
        if kernel.preset.platform() == Platform::Pseries && self.groups.len() > 1 {
            kernel.violations.push(Violation::SecondGroup { groups: self.groups.clone() });
        }
        Ok(())
    }

    /// `tce_iommu_detach_group`: clears every table that the groups share, not only this group's
    /// view.
    pub(super) fn detach(&mut self, kernel: &mut Kernel, group: u32) {
        self.groups.retain(|attached| *attached != group);
        let counted = self.v2;
        for table in self.tables.iter_mut().flatten() {
            table.clear(&table.numbers(), counted.then_some(&mut kernel.regions));
            if let Some(group) = kernel.groups.get_mut(&group) {
                kernel.preset.unset_window(&mut group.pe, table);
            }
        }
    }

    /// `tce_iommu_release`, after the last group has left.
    pub(super) fn release(mut self, kernel: &mut Kernel) {
        for table in self.tables.iter_mut().filter_map(Option::take) {
            kernel.process.locked.uncharge(table.charged);
        }
        for start in core::mem::take(&mut self.registered) {
            let found = kernel.regions.get(start).map(|region| (region.user, region.mapped - 1));
            if let (Some((range, mapped)), Drop::Busy) = (found, kernel.regions.put(&mut kernel.process, start)) {
                kernel.violations.push(Violation::ReleasedWhileMapped { range, mapped });
            }
        }
        kernel.process.locked.uncharge(self.v1_locked);
    }
}
