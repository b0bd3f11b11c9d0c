//! The bus addresses devices can address, the windows in which memory is mapped for them, and the
//! allocation of bus addresses there.

use super::{DmaConfig, DmaError, IovaSpan, Iovas};
use crate::addr::{Bytes, Iova, IovaRange, PageShift};
use crate::host::Host;
use crate::space::{AddressSpace, WindowError};
use crate::window::{DEFAULT_PAGE, DefaultWindow, PlanError, Want, WindowFacts, WindowRequest};
use arrayvec::ArrayVec;
use core::fmt;

/// Fewest pages of a buffer's page size in a window that make the larger page worthwhile.
const FEWEST_PAGES: u64 = 64;

/// A device's DMA mask: how many bits its bus addresses have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DmaMask(u32);

impl DmaMask {
    /// All bus addresses: 64 bits.
    pub const ALL: Self = Self(64);

    /// Creates a mask of `bits` bits, 1 to 64.
    pub const fn bits(bits: u32) -> Option<Self> {
        if bits >= 1 && bits <= 64 { Some(Self(bits)) } else { None }
    }

    /// Returns the smallest mask that reaches `last`.
    pub(super) const fn least(last: u64) -> Self {
        let bits = 64 - last.leading_zeros();
        Self(if bits == 0 { 1 } else { bits })
    }

    /// Returns the last bus address it reaches.
    pub const fn reach(self) -> u64 {
        u64::MAX >> (64 - self.0)
    }

    /// Returns whether it reaches all of `range`.
    pub fn reaches(self, range: IovaRange) -> bool {
        range.end().0 - 1 <= self.reach()
    }
}

impl fmt::Display for DmaMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bits", self.0)
    }
}

/// Purpose of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowKind {
    /// The dynamic window, which only devices with many address bits reach.
    Dynamic,
    /// The default window, for devices with 32 address bits.
    Default,
}

/// Allocated bus addresses.
#[derive(Debug)]
pub(super) struct IovaAllocation {
    kind: WindowKind,
    span: IovaSpan,
}

impl IovaAllocation {
    pub(super) fn range(&self) -> IovaRange {
        self.span.range()
    }
}

struct Arena {
    range: IovaRange,
    page: PageShift,
    iovas: Iovas,
}

impl Arena {
    /// Creates an arena of the bus addresses from `start` to `end`; `None` without any. Leaves out
    /// the page at bus address 0, which many devices treat as a null address.
    fn new(start: Iova, end: Iova, page: PageShift) -> Option<Self> {
        let start = if start.0 == 0 { Iova(page.bytes()) } else { start };
        let range = IovaRange::between(start, end)?;
        Some(Self { range, page, iovas: Iovas::new(range, page) })
    }
}

/// The windows of a [`Dma`](super::Dma).
#[derive(Default)]
pub(super) struct Arenas {
    dynamic: Option<Arena>,
    default: Option<Arena>,
    /// The reach of the devices when the dynamic window was refused, and the reason.
    refused: Option<(u64, WindowError)>,
}

impl Arenas {
    /// Returns the windows that devices with `mask` reach, best first, and creates them when first
    /// needed.
    pub(super) fn reached(
        &mut self,
        space: &AddressSpace,
        config: &DmaConfig,
        mask: DmaMask,
    ) -> Result<ArrayVec<WindowKind, 2>, DmaError> {
        let reach = mask.reach();
        let tried = self.dynamic.is_some() || self.refused.as_ref().is_some_and(|(refused, _)| reach <= *refused);
        if !tried || self.default.is_none() {
            let status = space.status();
            let facts = status.facts.ok_or(DmaError::NoDevice)?;
            // Without dynamic windows in the firmware Linux creates none at all; the refusal of one
            // says so.
            let wanted = config.default_window && facts.windows.is_some();
            if self.default.is_none() && wanted && status.default != DefaultWindow::Gone {
                self.default = facts.default.and_then(|range| Arena::new(range.start(), range.end(), DEFAULT_PAGE));
            }
            if !tried {
                self.create(space, config, &facts, reach)?;
            }
        }
        let all = [(WindowKind::Dynamic, &self.dynamic), (WindowKind::Default, &self.default)];
        let host_page = space.registry().host().page_shift();
        let reached: ArrayVec<WindowKind, 2> = all
            .iter()
            .filter(|(_, arena)| arena.as_ref().is_some_and(|arena| arena.first_piece(host_page).1 <= reach))
            .map(|(kind, _)| *kind)
            .collect();
        if !reached.is_empty() {
            return Ok(reached);
        }
        let lowest = all.iter().filter_map(|(_, arena)| Some(arena.as_ref()?.first_piece(host_page))).min();
        Err(match (lowest, &self.refused) {
            (Some((lowest, last)), _) => DmaError::MaskTooSmall { mask, lowest, least: DmaMask::least(last) },
            (None, Some((_, why))) => why.clone().into(),
            (None, None) => DmaError::NoDevice,
        })
    }

    fn create(
        &mut self,
        space: &AddressSpace,
        config: &DmaConfig,
        facts: &WindowFacts,
        reach: u64,
    ) -> Result<(), DmaError> {
        let mut request = WindowRequest::bytes(config.capacity).reach(reach);
        if let Some(page) = config.page.or_else(|| huge_page(space.registry().host().as_ref(), facts, config)) {
            request = request.page(page).max_iommu_page(page);
        }
        let made = space.create_window(&request).map(|window| (window.range.start(), window));
        let made = made.or_else(|why| match above_mmio(facts, config, reach) {
            Some(range) if matches!(why, WindowError::Refused(PlanError::BelowMmio { .. })) => {
                let window = space.create_window(&WindowRequest { want: Want::Cover(range), ..request });
                window.map(|window| (range.start(), window))
            }
            _ => Err(why),
        });
        match made {
            Ok((start, window)) => self.dynamic = Arena::new(start, window.range.end(), window.page),
            // Buffers of the default window would hide what is wrong.
            Err(why) if is_configured(&why) => return Err(why.into()),
            Err(why) => {
                tracing::debug!(%why, "the default window serves");
                self.refused = Some((reach, why));
            }
        }
        Ok(())
    }

    pub(super) fn page(&self, kind: WindowKind) -> Result<PageShift, DmaError> {
        self.arena(kind).map(|arena| arena.page)
    }

    /// Allocates `bytes` in one piece, whole pages, that devices with `mask` reach.
    pub(super) fn allocate(&mut self, kind: WindowKind, bytes: u64, mask: DmaMask) -> Result<IovaAllocation, DmaError> {
        let why = self.refused.as_ref().map(|(_, why)| why).filter(|why| !is_beyond(why)).cloned();
        let fixed = kind == WindowKind::Default && self.dynamic.is_none();
        let arena = self.arena_mut(kind)?;
        let (window, page) = (arena.range, arena.page);
        let iovas = &mut arena.iovas;
        let span = if mask.reaches(window) {
            let span = iovas.allocate(bytes, page);
            let largest = |iovas: &Iovas| iovas.largest_free();
            span.ok_or_else(|| match why {
                Some(why) if fixed => DmaError::NoRoomInDefault { bytes, window, largest: largest(iovas), why },
                _ if kind == WindowKind::Default => {
                    DmaError::NoRoomInReach { bytes, window, mask, largest: largest(iovas) }
                }
                _ => DmaError::NoRoom { bytes, window, largest: largest(iovas) },
            })
        } else {
            let last = mask.reach();
            let span = iovas.allocate_within(bytes, page, last);
            let largest = |iovas: &Iovas| iovas.largest_free_within(last);
            span.ok_or_else(|| DmaError::NoRoomInReach { bytes, window, mask, largest: largest(iovas) })
        };
        Ok(IovaAllocation { kind, span: span? })
    }

    /// Returns whether the allocation is of a window that still exists.
    pub(super) fn owns(&self, allocation: &IovaAllocation) -> bool {
        self.arena(allocation.kind).is_ok_and(|arena| arena.iovas.owns(&allocation.span))
    }

    pub(super) fn give_back(&mut self, allocation: IovaAllocation) {
        if let Ok(arena) = self.arena_mut(allocation.kind) {
            arena.iovas.free(allocation.span);
        }
    }

    fn arena(&self, kind: WindowKind) -> Result<&Arena, DmaError> {
        match kind {
            WindowKind::Dynamic => self.dynamic.as_ref(),
            WindowKind::Default => self.default.as_ref(),
        }
        .ok_or(DmaError::NoDevice)
    }

    fn arena_mut(&mut self, kind: WindowKind) -> Result<&mut Arena, DmaError> {
        match kind {
            WindowKind::Dynamic => self.dynamic.as_mut(),
            WindowKind::Default => self.default.as_mut(),
        }
        .ok_or(DmaError::NoDevice)
    }
}

impl Arena {
    /// Returns the first and the last bus address of the first memory it gives out, at least a page
    /// of the host.
    fn first_piece(&self, host_page: PageShift) -> (Iova, u64) {
        let start = self.range.start();
        (start, start.0.saturating_add(self.page.max(host_page).mask()))
    }
}

/// Returns bus addresses for a device that does not reach 1 << 59: above the MMIO, where a window
/// of powernv at 0 goes on.
fn above_mmio(facts: &WindowFacts, config: &DmaConfig, reach: u64) -> Option<IovaRange> {
    let range = IovaRange::new(facts.mmio()?.end(), facts.host_page.ceil(config.capacity)?).ok()?;
    (range.end().0 - 1 <= reach).then_some(range)
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {} pages, {} free", self.range, self.page, Bytes(self.iovas.free_bytes()))
    }
}

impl fmt::Debug for Arenas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dynamic: {:?}, default: {:?}", self.dynamic, self.default)
    }
}

/// Returns whether no window can be made because [`DmaConfig`] asks for too much.
fn is_configured(why: &WindowError) -> bool {
    let WindowError::Refused(why) = why else { return false };
    matches!(
        why,
        PlanError::TooLarge { .. }
            | PlanError::PageUnsupported { .. }
            | PlanError::NoMemory { .. }
            | PlanError::Memlock(_)
    )
}

/// Returns whether the device does not reach the window, which no other configuration changes.
fn is_beyond(why: &WindowError) -> bool {
    matches!(why, WindowError::Refused(PlanError::BeyondDevice { .. }))
}

/// Returns the largest IOMMU page above the host's for which there is a page of hugetlb, and of
/// which the window has many.
fn huge_page(host: &dyn Host, facts: &WindowFacts, config: &DmaConfig) -> Option<PageShift> {
    let worth = |page: &PageShift| *page > facts.host_page && page.bytes() <= config.capacity / FEWEST_PAGES;
    facts.page_sizes().rev().filter(worth).find(|page| {
        let one = host.share(page.bytes(), *page);
        one.inspect(|memory| host.disown(memory)).is_ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_reaches_its_last_address() {
        let range = |start, len| IovaRange::new(Iova(start), len).unwrap();
        let mask = DmaMask::bits(32).unwrap();
        assert_eq!(mask.reach(), 0xffff_ffff);
        assert!(mask.reaches(range(0xffff_f000, 0x1000)));
        assert!(!mask.reaches(range(0xffff_f000, 0x1001)));
        assert_eq!(DmaMask::ALL.reach(), u64::MAX);
        assert_eq!(DmaMask::bits(1).map(DmaMask::reach), Some(1));
        assert_eq!((DmaMask::least(0).0, DmaMask::least(0xffff).0, DmaMask::least(0x1_0000).0), (1, 16, 17));
        assert_eq!(DmaMask::least(u64::MAX), DmaMask::ALL);
        assert_eq!((DmaMask::bits(0), DmaMask::bits(65)), (None, None));
    }
}
