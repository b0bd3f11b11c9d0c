//! TCE tables before their creation: their cost, and the slot in which powernv puts them.
//!
//! The powernv kernel fills the lowest free slot of a container, and the slot fixes the start: bus
//! address 0 for the first, 1 << 59 for the second (`pnv_pci_ioda2_table_alloc_pages`). A window
//! that must start at 1 << 59 while the first slot is free needs a small one created before it and
//! removed afterwards.

use super::{DefaultWindow, LiveWindow, Origin, PlanError, PlanInput, Want, WindowFacts, WindowRequest};
use crate::addr::{Iova, IovaRange, PageShift};
use crate::host::Platform;

/// Where the window of slot 1 starts (`arch/powerpc/platforms/powernv/pci-ioda-tce.c`).
pub(super) const SECOND: Iova = Iova(1 << 59);

/// The largest allocation for one level, as a power of two (`MAX_PAGE_ORDER` of the kernel's
/// allocator).
const LARGEST_LEVEL_SHIFT: u32 = 24;
/// One level is used up to this size: the allocation is atomic, and larger ones fail when memory is
/// fragmented.
const SINGLE_LEVEL_SHIFT: u32 = 23;
/// `pnv_pci_ioda2_table_alloc_pages` refuses tables that reach this many bits.
const TABLE_BITS: u32 = 55;
/// Largest number of TCEs in a pseries window, as a power of two. The firmware reports its own
/// limit to the kernel alone, and a creation over it leaks. This value stays below what QEMU
/// grants, and takes the kernel 2 GiB of memory and minutes to remove.
const PSERIES_ENTRIES_SHIFT: u32 = 28;
/// `POWERNV_IOMMU_MAX_LEVELS`.
const MAX_LEVELS: u32 = 5;

/// Cost of removing a window, however empty it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Teardown {
    /// Entries visited one by one.
    pub entries: u64,
    /// Hypercalls made.
    pub hypercalls: u64,
}

/// Returns the smallest window: one host page of TCEs. powernv rounds up to it, and below it the
/// kernel's array of user addresses has no guard page.
pub(super) fn smallest(facts: &WindowFacts, page: PageShift) -> u64 {
    page.bytes() * (facts.host_page.bytes() / 8)
}

/// Returns the levels for a table of `size` (a power of two) bytes; `None` if no number of levels
/// works.
pub(super) fn levels(facts: &WindowFacts, page: PageShift, size: u64) -> Option<u32> {
    match facts.platform {
        Platform::Pseries => (entries_shift(page, size) <= PSERIES_ENTRIES_SHIFT).then_some(1),
        Platform::Powernv => (1..=MAX_LEVELS).find(|&levels| {
            let shift = level_shift(facts, page, size, levels);
            let most = if levels == 1 { SINGLE_LEVEL_SHIFT } else { LARGEST_LEVEL_SHIFT };
            shift <= most && (shift - 3) * levels + page.get() < TABLE_BITS
        }),
    }
}

/// Returns the size of one level's tables as a power of two.
fn level_shift(facts: &WindowFacts, page: PageShift, size: u64, levels: u32) -> u32 {
    (entries_shift(page, size).div_ceil(levels) + 3).max(facts.host_page.get())
}

fn entries_shift(page: PageShift, size: u64) -> u32 {
    size.ilog2().saturating_sub(page.get())
}

/// Returns the bytes of locked memory a table is charged: on powernv for the hardware table and the
/// user addresses, all levels, though leaves are allocated later (`get_table_size`); on pseries for
/// the user addresses alone.
pub fn locked_bytes(facts: &WindowFacts, page: PageShift, size: u64, levels: u32) -> u64 {
    if size == 0 {
        return 0;
    }
    let host_page = facts.host_page;
    let bytes = match facts.platform {
        Platform::Pseries => size >> (page.get() - 3),
        Platform::Powernv => {
            let entries_shift = entries_shift(page, size);
            let level = 1_u64 << (entries_shift.div_ceil(levels.max(1)) + 3).max(host_page.get()).min(62);
            let mut table = (8_u64 << entries_shift.min(60)).max(4096);
            let mut bytes = 0_u64;
            for _ in 0..levels {
                bytes = bytes.saturating_add(table.div_ceil(level).saturating_mul(level));
                table = (8 * (table / level)).max(level);
            }
            bytes.saturating_mul(2)
        }
    };
    host_page.floor(bytes)
}

/// Returns the cost of removing a window.
pub(super) fn teardown(facts: &WindowFacts, page: PageShift, size: u64, levels: u32) -> Teardown {
    let entries = size >> page.get();
    match facts.platform {
        Platform::Pseries => Teardown { entries, hypercalls: entries.saturating_mul(2) },
        Platform::Powernv if levels <= 1 => Teardown { entries, hypercalls: 0 },
        // Leaves that were never touched are skipped.
        Platform::Powernv => Teardown::default(),
    }
}

/// A small window that holds the first slot while another is created in the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) page: PageShift,
    pub(crate) size: u64,
    /// Bytes of locked memory charged while it exists.
    pub(crate) locked_bytes: u64,
}

/// The two slots of a powernv container: the windows in them, if any.
pub(super) struct Slots {
    first: Option<IovaRange>,
    second: Option<IovaRange>,
}

impl Slots {
    pub(super) fn new(facts: &WindowFacts, default: DefaultWindow, live: &[LiveWindow]) -> Self {
        let ranges = || live.iter().map(|live| live.window.range);
        let pending = facts.default.filter(|_| default == DefaultWindow::Pending);
        let first = ranges().find(|range| range.start() < SECOND).or(pending);
        Self { first, second: ranges().find(|range| range.start() >= SECOND) }
    }

    pub(super) fn first_is_free(&self) -> bool {
        self.first.is_none()
    }

    /// Chooses the slot for a request, or fails if the slots that could serve it are taken.
    pub(super) fn choose(&self, facts: &WindowFacts, request: &WindowRequest) -> Result<u32, PlanError> {
        let taken = |asked, start| match (self.first, self.second) {
            (Some(first), Some(second)) => PlanError::NoFreeWindow { first, second },
            _ => PlanError::OutOfReach { asked, start },
        };
        match request.want {
            Want::Cover(asked) if asked.start() < SECOND => match self.first {
                None => Ok(0),
                Some(_) => Err(taken(asked, SECOND)),
            },
            Want::Cover(asked) => match self.second {
                None => Ok(1),
                Some(_) => Err(taken(asked, Iova(0))),
            },
            Want::Bytes(bytes) => {
                let far = request.reach.is_none_or(|reach| reach >= SECOND.0);
                match (self.first, self.second) {
                    (Some(first), Some(second)) => Err(PlanError::NoFreeWindow { first, second }),
                    (None, second) if second.is_some() || !far => self.low(facts, request, bytes).map(|()| 0),
                    _ => Ok(1),
                }
            }
        }
    }

    /// Checks that a window of `bytes` fits below the MMIO range.
    fn low(&self, facts: &WindowFacts, request: &WindowRequest, bytes: u64) -> Result<(), PlanError> {
        let fewest = request.page.map_or(0, |page| request.entries.saturating_mul(page.bytes()));
        let size = bytes.max(fewest);
        match facts.mmio().filter(|mmio| size > mmio.start().0) {
            Some(mmio) => Err(PlanError::BelowMmio { size, mmio }),
            None => Ok(()),
        }
    }
}

/// Finds an idle window to remove for the request; `None` if a suitable slot is free.
pub(super) fn idle_window(input: &PlanInput, request: &WindowRequest) -> Option<usize> {
    let PlanInput { facts, default, live, .. } = input;
    let without = |at: usize| {
        let rest: Vec<_> = live.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, s)| *s).collect();
        Slots::new(facts, *default, &rest).choose(facts, request).is_ok()
    };
    if Slots::new(facts, *default, live).choose(facts, request).is_ok() {
        return None;
    }
    let idle = |at: &usize| live[*at].window.origin == Origin::Demand && !live[*at].in_use;
    (0..live.len()).filter(idle).find(|at| without(*at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(platform: Platform, host_page: PageShift) -> WindowFacts {
        WindowFacts { platform, host_page, default: None, pages: 0, windows: Some(2) }
    }

    #[test]
    fn charges_are_those_seen_on_kernels() {
        let powernv = facts(Platform::Powernv, PageShift::P64K);
        assert_eq!(locked_bytes(&powernv, PageShift::P4K, 1 << 36, 2), 262_272 << 10);
        assert_eq!(locked_bytes(&powernv, PageShift::P4K, 2 << 30, 1), 8 << 20);
        let pseries = facts(Platform::Pseries, PageShift::P4K);
        assert_eq!(locked_bytes(&pseries, PageShift::P4K, 1 << 30, 1), 2 << 20);
    }

    #[test]
    fn levels_stay_within_what_the_allocator_gives() {
        let large = facts(Platform::Powernv, PageShift::P64K);
        assert_eq!(levels(&large, PageShift::P4K, 1 << 32), Some(1));
        assert_eq!(levels(&large, PageShift::P4K, 1 << 33), Some(2));
        assert_eq!(levels(&large, PageShift::P64K, 1 << 44), Some(2));
        let small = facts(Platform::Powernv, PageShift::P4K);
        assert_eq!(levels(&small, PageShift::P64K, 1 << 44), Some(2));
        // 64 KiB levels and 64 KiB pages: three levels would count 3 * 13 + 16 = 55 bits.
        assert_eq!(levels(&large, PageShift::P64K, 1 << 59), None);
    }

    #[test]
    fn a_pseries_window_costs_two_hypercalls_an_entry_to_remove() {
        let pseries = facts(Platform::Pseries, PageShift::P64K);
        let cost = teardown(&pseries, PageShift::P64K, 1 << 30, 1);
        assert_eq!(cost, Teardown { entries: 16384, hypercalls: 32768 });
        let powernv = facts(Platform::Powernv, PageShift::P64K);
        assert_eq!(teardown(&powernv, PageShift::P64K, 1 << 40, 2), Teardown::default());
    }
}
