//! Bare metal (`arch/powerpc/platforms/powernv/pci-ioda-tce.c`).

use super::{Geometry, Limits, Request};
use crate::addr::PageShift;
use crate::host::Errno;
use crate::model::table::WindowKind;

/// Start of the window in slot 1.
const SECOND_WINDOW: u64 = 1 << 59;
/// Where the host bridge decodes 32-bit MMIO: after the default window (`m32_pci_base`).
pub(super) const MMIO: core::ops::Range<u64> = 0x8000_0000..0x1_0000_0000;
const MAX_LEVELS: u32 = 5;
/// The largest block of the buddy allocator: 16 MiB.
const LARGEST_LEVEL: u32 = 24;

pub(super) fn limits(pgsizes: u64) -> Limits {
    Limits { start: 0, size: 0x8000_0000, pgsizes, windows: 2, levels: MAX_LEVELS }
}

/// Returns the entries as a power of two; `None` for sizes that are refused whatever the table
/// would be. A window smaller than its page gives a number that wrapped, and the kernel goes on
/// computing with it.
fn entries_shift(shift: u32, size: u64, levels: u32) -> Option<u32> {
    let allowed = (1..=MAX_LEVELS).contains(&levels) && size.is_power_of_two();
    Some(size.checked_ilog2().filter(|_| allowed)?.wrapping_sub(shift))
}

fn level_shift(host: PageShift, entries: u32, levels: u32) -> u32 {
    (entries.wrapping_add(levels - 1) / levels).wrapping_add(3).max(host.get())
}

/// Returns two to the power of `shift` as POWER computes it, from the low seven bits: 0 from 64 on.
fn power(shift: u32) -> u64 {
    1u64.checked_shl(shift & 0x7f).unwrap_or(0)
}

/// `pnv_pci_ioda2_get_table_size`: all levels, once for the hardware and once for the user
/// addresses.
pub(super) fn table_size(host: PageShift, shift: u32, size: u64, levels: u32) -> u64 {
    let Some(entries) = entries_shift(shift, size, levels) else { return 0 };
    let level = level_shift(host, entries, levels);
    let direct = power(level);
    let mut table = power(entries.wrapping_add(3)).max(4096);
    let mut bytes = 0u64;
    for _ in 0..levels {
        let mask = direct.wrapping_sub(1);
        bytes = bytes.wrapping_add(table.wrapping_add(mask) & !mask);
        table = (table.checked_shr(level & 0x7f).unwrap_or(0) << 3).max(direct);
    }
    bytes.wrapping_mul(2)
}

/// `pnv_pci_ioda2_table_alloc_pages`.
pub(super) fn create_table(host: PageShift, request: Request) -> Result<Geometry, Errno> {
    let Request { slot, shift, size, levels } = request;
    let entries = entries_shift(shift, size, levels).ok_or(Errno::EINVAL)?;
    let level = level_shift(host, entries, levels);
    if u64::from(level - 3) * u64::from(levels) + u64::from(shift) >= 55 {
        return Err(Errno::EINVAL);
    }
    if level > LARGEST_LEVEL {
        return Err(Errno::ENOMEM);
    }
    let start = if slot == 0 { 0 } else { SECOND_WINDOW };
    // The table has at least one host page, and all of it is mappable.
    let entries = power(entries.wrapping_add(3).max(host.get())) >> 3;
    Ok(Geometry { kind: WindowKind::Phb, start, entries })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(host: PageShift, shift: u32, size: u64, levels: u32) -> Result<u64, Errno> {
        create_table(host, Request { slot: 1, shift, size, levels }).map(|geometry| geometry.entries << shift)
    }

    #[test]
    fn a_table_is_charged_for_all_levels_twice() {
        let observed = 262_272 << 10;
        assert_eq!(table_size(PageShift::P64K, 12, 1 << 36, 2), observed);
        assert_eq!(table_size(PageShift::P64K, 12, 1 << 31, 1), 8 << 20);
        assert_eq!(table_size(PageShift::P4K, 12, 1 << 31, 1), 8 << 20);
    }

    #[test]
    fn impossible_tables_have_size_0() {
        for (size, levels) in [(1 << 31, 0), (1 << 31, 6), (3 << 30, 1), (0, 1)] {
            assert_eq!(table_size(PageShift::P64K, 12, size, levels), 0);
        }
    }

    #[test]
    fn levels_are_bounded_by_the_host_page() {
        let (large, small) = (PageShift::P64K, PageShift::P4K);
        assert_eq!(create(large, 16, 1 << 40, 2), Ok(1 << 40));
        assert_eq!(create(large, 16, 1 << 40, 3), Err(Errno::EINVAL));
        assert_eq!(create(large, 12, 1 << 40, 3), Ok(1 << 40));
        assert_eq!(create(large, 12, 1 << 40, 4), Err(Errno::EINVAL));
        assert_eq!(create(small, 16, 1 << 40, 4), Ok(1 << 40));
        assert_eq!(create(small, 16, 1 << 40, 5), Err(Errno::EINVAL));
    }

    #[test]
    fn one_level_is_at_most_16_mib() {
        assert_eq!(create(PageShift::P64K, 12, 8 << 30, 1), Ok(8 << 30));
        assert_eq!(create(PageShift::P64K, 12, 16 << 30, 1), Err(Errno::ENOMEM));
        assert_eq!(create(PageShift::P64K, 16, 128 << 30, 1), Ok(128 << 30));
        assert_eq!(create(PageShift::P64K, 16, 256 << 30, 1), Err(Errno::ENOMEM));
    }

    #[test]
    fn a_small_window_is_rounded_up_to_a_host_page_of_entries() {
        assert_eq!(create(PageShift::P64K, 12, 1 << 20, 1), Ok(32 << 20));
        assert_eq!(create(PageShift::P64K, 16, 1 << 20, 1), Ok(512 << 20));
        assert_eq!(create(PageShift::P4K, 12, 1 << 20, 1), Ok(2 << 20));
    }

    #[test]
    fn a_window_smaller_than_its_page_is_computed_with_all_the_same() {
        let (large, small) = (PageShift::P64K, PageShift::P4K);
        // Half a page is treated like a page.
        assert_eq!((table_size(large, 12, 0x800, 1), create(large, 12, 0x800, 1)), (0x2_0000, Ok(32 << 20)));
        assert_eq!((table_size(small, 12, 0x800, 1), create(small, 12, 0x800, 1)), (0x2000, Ok(2 << 20)));
        // One level of nothing costs nothing; two levels are charged and refused.
        assert_eq!(table_size(large, 12, 0x20, 1), 0);
        assert_eq!((table_size(large, 12, 0x20, 2), create(large, 12, 0x20, 2)), (0x1_2000, Err(Errno::EINVAL)));
    }
}
