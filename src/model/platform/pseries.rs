//! A partition or guest (`arch/powerpc/platforms/pseries/iommu.c`), with QEMU's firmware.

use super::{Geometry, Limits, Pe, Request};
use crate::host::Errno;
use crate::model::preset::Firmware;
use crate::model::table::WindowKind;
use crate::model::violation::Violation;

/// Size of the firmware's default window.
const DEFAULT_WINDOW: u32 = 0x4000_0000;
/// Start of the firmware's dynamic window.
const DYNAMIC_WINDOW: u64 = 1 << 59;
/// The largest block the firmware's query reports, in TCEs.
const LARGEST_BLOCK: u64 = 0x20_0000_0000;
/// Page sizes a query can report; the kernel drops 16 GiB.
const QUERY_SIZES: u64 = (1 << 34) - (1 << 12);

pub(super) fn limits(firmware: Firmware) -> Limits {
    let (pgsizes, windows, levels) = if firmware.ddw {
        (0x1000 | firmware.page_sizes & QUERY_SIZES, firmware.windows, 1)
    } else {
        (0x1000, u32::MAX, 0)
    };
    Limits { start: 0, size: DEFAULT_WINDOW, pgsizes, windows, levels }
}

/// `spapr_tce_get_table_size`.
pub(super) fn table_size(shift: u32, size: u64, levels: u32) -> u64 {
    if levels > 1 { u64::from(u32::MAX) } else { size >> (shift - 3) }
}

/// `spapr_tce_create_table`.
pub(super) fn create_table(
    firmware: Firmware,
    pe: &mut Pe,
    request: Request,
    violations: &mut Vec<Violation>,
) -> Result<Geometry, Errno> {
    let Request { slot, shift, size, levels } = request;
    if !size.is_power_of_two() || levels > 1 {
        return Err(Errno::EINVAL);
    }
    if pe.failed {
        return Err(Errno::ENODEV);
    }
    let default_like = shift == 12 && size <= u64::from(DEFAULT_WINDOW);
    if slot == 0 && firmware.ddw {
        if pe.dynamic {
            return Err(Errno::EPERM);
        }
        // The property was removed when ownership was taken; a reset of the PE brings it back.
        if default_like {
            if size >> shift == 0 {
                violations.push(Violation::EmptyWindow { size });
            }
            pe.default = true;
            return Ok(Geometry { kind: WindowKind::Default, start: 0, entries: size >> shift });
        }
    }
    let failed = if !firmware.ddw {
        Errno::EINVAL
    } else if size.checked_shr(shift).is_some_and(|entries| entries > LARGEST_BLOCK) {
        return Err(Errno::EINVAL);
    } else {
        if pe.dynamic {
            violations.push(Violation::SecondDdw { group: pe.group });
        }
        let free = !pe.dynamic && (firmware.windows > 1 || !pe.default);
        if free && size >> shift != 0 {
            pe.dynamic = true;
            return Ok(Geometry { kind: WindowKind::Dynamic, start: DYNAMIC_WINDOW, entries: size >> shift });
        }
        Errno::ENODEV
    };
    pe.failed = true;
    violations.push(Violation::Poisoned { group: pe.group });
    Err(failed)
}
