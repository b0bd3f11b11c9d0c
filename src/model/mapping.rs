//! MAP and UNMAP of a container.

use super::container::{Driver, Kernel, Result};
use super::preset::Machine;
use super::region::Segment;
use super::table::{Table, pin_singly};
use super::violation::Violation;
use crate::addr::Iova;
use crate::host::{Errno, Platform};
use crate::uapi::vfio::{DMA_MAP_FLAG_READ, DMA_MAP_FLAG_WRITE, DmaMap, DmaUnmap};

/// The kernel's result for a misaligned IOVA: a C boolean, not an error number.
const MISALIGNED: i32 = 1;

impl Driver {
    pub(super) fn map(&mut self, kernel: &mut Kernel, args: &DmaMap) -> Result {
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

    pub(super) fn unmap(&mut self, kernel: &mut Kernel, args: &DmaUnmap) -> Result {
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
        // The rollback tells the hardware to forget no entries, from -1 down.
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
