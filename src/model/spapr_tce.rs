//! The driver of a container (`struct tce_container`, `drivers/vfio/vfio_iommu_spapr_tce.c`), and
//! the order in which its calls check.
//!
//! The model has one process and no faulting argument, so it has no checks for a foreign `mm` or
//! for EFAULT.
//!
//! REGISTER and UNREGISTER come first, then the windows, then MAP and UNMAP.

use super::group::Group;
use super::platform::Request;
use super::preset::{Machine, Preset};
use super::process::Process;
use super::region::{PutResult, Regions, Segment};
use super::table::{Table, pin_singly};
use super::violation::Violation;
use crate::addr::Iova;
use crate::host::{Call, Errno, Platform};
use crate::uapi::spapr::{self, RegisterMemory, TceCreate, TceRemove};
use crate::uapi::vfio::{DMA_MAP_FLAG_READ, DMA_MAP_FLAG_WRITE, DmaMap, DmaUnmap};
use rangemap::RangeMap;
use std::collections::BTreeMap;

/// The kernel's result for a misaligned IOVA: a C boolean, not an error number.
const MISALIGNED: i32 = 1;

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
            if let (Some((range, mapped)), PutResult::Busy) = (found, kernel.regions.put(&mut kernel.process, start)) {
                kernel.violations.push(Violation::ReleasedWhileMapped { range, mapped });
            }
        }
        kernel.process.locked.uncharge(self.v1_locked);
    }

    /// `tce_iommu_register_pages`.
    fn register(&mut self, kernel: &mut Kernel, args: &RegisterMemory) -> Result {
        self.bound = true;
        check_args(args.argsz, size_of::<RegisterMemory>(), args.flags)?;
        aligned(kernel, args)?;
        let range = args.vaddr..args.vaddr.checked_add(args.size).ok_or(Errno::EINVAL)?;
        if let Some(region) = kernel.regions.exact(&range) {
            if self.registered.contains(&range.start) {
                return Err(Errno::EBUSY);
            }
            region.used += 1;
        } else {
            let result = kernel.regions.add(&mut kernel.process, range.clone(), &mut kernel.violations)?;
            if result != 0 {
                return Ok(result);
            }
        }
        self.registered.insert(0, range.start);
        self.enabled = true;
        Ok(0)
    }

    /// `tce_iommu_unregister_pages`. Its own lookup holds the region while it drops the container's
    /// use, so the refusal of the last drop is lost.
    fn unregister(&mut self, kernel: &mut Kernel, args: &RegisterMemory) -> Result {
        if !self.bound {
            return Err(Errno::EPERM);
        }
        check_args(args.argsz, size_of::<RegisterMemory>(), args.flags)?;
        aligned(kernel, args)?;
        // REGISTER has checked that it does not wrap; here a wrap only means that no such region
        // exists.
        let range = args.vaddr..args.vaddr.checked_add(args.size).ok_or(Errno::ENOENT)?;
        let region = kernel.regions.exact(&range).ok_or(Errno::ENOENT)?;
        let at = self.registered.iter().position(|start| *start == range.start).ok_or(Errno::ENOENT)?;
        if region.used == 1 && region.mapped != 1 {
            let (range, mapped) = (region.user, region.mapped - 1);
            kernel.violations.push(Violation::UnregisterWhileMapped { range, mapped });
        }
        self.registered.remove(at);
        kernel.regions.put(&mut kernel.process, range.start);
        Ok(0)
    }

    fn create(&mut self, kernel: &mut Kernel, args: &mut TceCreate) -> Result {
        self.bound = true;
        check_args(args.argsz, size_of::<TceCreate>(), args.flags)?;
        self.create_default(kernel)?;
        args.start_addr = self.create_window(kernel, args.page_shift, args.window_size, args.levels)?;
        Ok(0)
    }

    /// Creates the default window at the first call that may need it. If that fails, it stays
    /// pending.
    fn create_default(&mut self, kernel: &mut Kernel) -> Result<()> {
        if self.default_pending {
            self.create_window(kernel, 12, u64::from(kernel.preset.limits().size), 1)?;
            self.default_pending = false;
        }
        Ok(())
    }

    /// `tce_iommu_create_window`.
    fn create_window(&mut self, kernel: &mut Kernel, shift: u32, size: u64, levels: u32) -> Result<u64> {
        let slot = self.tables.iter().position(Option::is_none).ok_or(Errno::ENOSPC)?;
        let newest = *self.groups.first().ok_or(Errno::ENODEV)?;
        // The check shifts by any number; as 6.12 is compiled, the low seven bits count.
        let low = if kernel.preset.kernel.bounds_page_shift() { shift } else { shift & 0x7f };
        if 1u64.checked_shl(low).is_none_or(|bit| kernel.preset.limits().pgsizes & bit == 0) {
            return Err(Errno::EINVAL);
        }
        let bytes = kernel.preset.table_size(low, size, levels);
        if bytes == 0 {
            return Err(Errno::EINVAL);
        }
        let charged = bytes >> kernel.process.page.get();
        kernel.process.locked.charge(charged)?;
        // The kernel loses its charge when the platform fails.
        let leaked = Violation::LeakedCharge { bytes: charged << kernel.process.page.get() };
        let leaked = (charged != 0).then_some(leaked);
        if low != shift {
            kernel.violations.push(Violation::WildPageShift { page_shift: shift });
            kernel.violations.extend(leaked);
            return Err(Errno::EINVAL);
        }
        let pe = &mut kernel.groups.get_mut(&newest).ok_or(Errno::ENODEV)?.pe;
        let request = Request { slot, shift, size, levels };
        let made = kernel.preset.create_table(pe, request, &mut kernel.violations);
        let made = made.inspect_err(|_| kernel.violations.extend(leaked))?;
        let table = Table {
            kind: made.kind,
            shift,
            start: made.start,
            entries: made.entries,
            charged,
            group: newest,
            runs: RangeMap::new(),
        };
        if let Err(errno) = self.groups.iter().try_for_each(|group| kernel.preset.set_window(*group, &table)) {
            self.free(kernel, table);
            return Err(errno);
        }
        self.tables[slot] = Some(table);
        Ok(made.start)
    }

    fn remove(&mut self, kernel: &mut Kernel, args: &TceRemove) -> Result {
        self.bound = true;
        check_args(args.argsz, size_of::<TceRemove>(), args.flags)?;
        if self.default_pending && args.start_addr == 0 {
            self.default_pending = false;
            return Ok(0);
        }
        let slot = self.slot(args.start_addr).ok_or(Errno::EINVAL)?;
        if let Some(mut table) = self.tables[slot].take() {
            table.clear(&table.numbers(), self.v2.then_some(&mut kernel.regions));
            self.free(kernel, table);
        }
        Ok(0)
    }

    /// Returns the slot of the window that holds a bus address, wherever in the window it lies.
    pub(super) fn slot(&self, iova: u64) -> Option<usize> {
        self.tables.iter().position(|table| table.as_ref().is_some_and(|table| table.contains(iova)))
    }

    /// Removes a window from every group and releases its charge.
    fn free(&self, kernel: &mut Kernel, table: Table) {
        for number in &self.groups {
            if let Some(group) = kernel.groups.get_mut(number) {
                kernel.preset.unset_window(&mut group.pe, &table);
            }
        }
        kernel.process.locked.uncharge(table.charged);
    }

    fn map(&mut self, kernel: &mut Kernel, args: &DmaMap) -> Result {
        const ACCESS: u32 = DMA_MAP_FLAG_READ | DMA_MAP_FLAG_WRITE;
        if !self.enabled {
            return Err(Errno::EPERM);
        }
        if (args.argsz as usize) < size_of::<DmaMap>() || args.flags & !ACCESS != 0 {
            return Err(Errno::EINVAL);
        }
        self.create_default(kernel)?;
        let slot = self.slot(args.iova).ok_or(Errno::ENXIO)?;
        let Some(table) = &mut self.tables[slot] else { return Err(Errno::ENXIO) };
        let mask = (1u64 << table.shift) - 1;
        if (args.size | args.vaddr) & mask != 0 || args.flags & ACCESS == 0 {
            return Err(Errno::EINVAL);
        }
        if args.iova & mask != 0 {
            return Ok(MISALIGNED);
        }
        if args.size == 0 {
            kernel.violations.push(Violation::EmptyMap { start: Iova(args.iova) });
            return Ok(0);
        }
        build(kernel, table, self.v2, args)
    }

    fn unmap(&mut self, kernel: &mut Kernel, args: &DmaUnmap) -> Result {
        if !self.enabled {
            return Err(Errno::EPERM);
        }
        if (args.argsz as usize) < size_of::<DmaUnmap>() || args.flags != 0 {
            return Err(Errno::EINVAL);
        }
        self.create_default(kernel)?;
        let slot = self.slot(args.iova).ok_or(Errno::ENXIO)?;
        let Some(table) = &mut self.tables[slot] else { return Err(Errno::ENXIO) };
        let mask = (1u64 << table.shift) - 1;
        if args.size & mask != 0 {
            return Err(Errno::EINVAL);
        }
        let first = args.iova >> table.shift;
        let (end, last) = (first.saturating_add(args.size >> table.shift), table.numbers().end);
        let outside = end > last;
        if args.iova & mask != 0 || outside && kernel.preset.kernel.bounds_unmap() {
            return Ok(MISALIGNED);
        }
        if args.size == 0 {
            kernel.violations.push(Violation::EmptyUnmap { start: Iova(args.iova) });
            return Ok(0);
        }
        // On pseries only the hypercalls are refused, one by one.
        if let (true, Platform::Powernv, Some(window)) = (outside, kernel.preset.platform(), table.range()) {
            let (start, size) = (Iova(args.iova), args.size);
            kernel.violations.push(Violation::UnmapPastWindow { start, size, window });
        }
        let last = table.numbers().start + table.granted(&kernel.preset);
        table.clear(&(first..end.min(last)), self.v2.then_some(&mut kernel.regions));
        Ok(0)
    }
}

fn aligned(kernel: &Kernel, args: &RegisterMemory) -> Result<()> {
    if (args.vaddr | args.size) & kernel.process.page.mask() == 0 { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `tce_iommu_build` and `tce_iommu_build_v2`: page by page in the kernel, in runs here, with the
/// same outcome.
fn build(kernel: &mut Kernel, table: &mut Table, v2: bool, args: &DmaMap) -> Result {
    let first = args.iova >> table.shift;
    let count = args.size >> table.shift;
    let (mut segments, mut failed) = if v2 {
        kernel.regions.resolve(args.vaddr, count, table.shift)
    } else {
        kernel.process.pinned_singly = true;
        pin_singly(&kernel.process, args.vaddr, count, table.shift)
    };
    let good = failed.map_or(count, |(index, _)| index);
    let numbers = table.numbers();
    if let (true, Some(window)) = (first + good > numbers.end, table.range()) {
        let pseries = kernel.preset.platform() == Platform::Pseries;
        let granted = numbers.start + table.granted(&kernel.preset);
        // After the array of user addresses comes an unmapped page; the array's own last page may
        // have room left.
        let room =
            numbers.start + (((table.entries * 8) + kernel.process.page.mask()) & !kernel.process.page.mask()) / 8;
        let fatal = pseries && v2 && first + good > room && room <= granted;
        let (start, size) = (Iova(args.iova), args.size);
        kernel.violations.push(Violation::MapPastWindow { start, size, window, fatal });
        match pseries {
            false => return failed.map_or(Ok(0), |(_, errno)| Err(errno)),
            true if fatal => return Err(Errno::EINTR),
            true if first + good > granted => {
                let inside = granted - first;
                if v2 {
                    leak_count(kernel, &segments, inside, table.shift);
                }
                failed = Some((inside, Errno::EINTR));
            }
            // The hypervisor accepts entries outside the kernel's window.
            true => {}
        }
    }
    if let Some((index, errno)) = failed {
        // The rollback makes the hardware drop no entries, from -1 down.
        if index == 0 && first == 0 && kernel.preset.machine == Machine::Powernv8 {
            kernel.violations.push(Violation::FailedMapAtZero { size: args.size });
        }
        // What was mapped so far is cleared, along with earlier entries there; later entries stay.
        segments.clear();
        table.clear(&(first..first + index), v2.then_some(&mut kernel.regions));
        return Err(errno);
    }
    table.set(first, &segments, kernel.preset.tce_bits(args.flags), v2.then_some(&mut kernel.regions));
    Ok(0)
}

/// Leaks a count: the hypervisor refuses the page `index`, for which the region's count was already
/// raised.
fn leak_count(kernel: &mut Kernel, segments: &[Segment], index: u64, shift: u32) {
    let Some(segment) = segments.iter().rfind(|segment| segment.index <= index) else { return };
    let user = segment.user + ((index - segment.index) << shift);
    kernel.regions.map(user, 1, shift);
    let holder = kernel.regions.iter().find(|region| region.range.contains(&user));
    kernel.violations.extend(holder.map(|region| Violation::LeakedCount { range: region.user }));
}
