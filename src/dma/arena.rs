//! Windows in which memory for devices is mapped, and the allocation of their bus addresses.

use super::{DmaConfig, DmaError, DmaMask, IovaSpan, Iovas};
use crate::addr::{Iova, IovaRange, PageShift};
use crate::host::Host;
use crate::space::{AddressSpace, WindowError};
use crate::window::{DEFAULT_PAGE, DefaultWindow, WindowFacts, WindowRequest};
use arrayvec::ArrayVec;

/// Fewest pages of a buffer's page size in a window that make the larger page worthwhile.
const FEWEST_PAGES: u64 = 64;

/// Purpose of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// The dynamic window, which only devices with many address bits reach.
    Dynamic,
    /// The default window, for devices with 32 address bits.
    Default,
}

/// Allocated bus addresses.
#[derive(Debug)]
pub(super) struct Place {
    which: Which,
    span: IovaSpan,
}

impl Place {
    pub(super) fn range(&self) -> IovaRange {
        self.span.range()
    }
}

#[derive(Debug)]
struct Arena {
    range: IovaRange,
    page: PageShift,
    iovas: Iovas,
}

impl Arena {
    /// Leaves out the page at bus address 0, which many devices treat as a null address.
    fn new(range: IovaRange, page: PageShift) -> Option<Self> {
        let start = if range.start().0 == 0 { page.bytes() } else { range.start().0 };
        let range = IovaRange::between(Iova(start), range.end())?;
        Some(Self { range, page, iovas: Iovas::new(range, page) })
    }
}

/// The windows of a [`Dma`](super::Dma).
#[derive(Debug, Default)]
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
    ) -> Result<ArrayVec<Which, 2>, DmaError> {
        let reach = mask.reach();
        let tried = self.dynamic.is_some() || self.refused.as_ref().is_some_and(|(refused, _)| reach <= *refused);
        if !tried || self.default.is_none() {
            let status = space.status();
            let facts = status.facts.ok_or(DmaError::NoDevice)?;
            // Without dynamic windows in the firmware Linux creates none at all; the refusal of one
            // says so.
            let wanted = config.default_window && facts.windows.is_some();
            if self.default.is_none() && wanted && status.default != DefaultWindow::Gone {
                self.default = facts.default.and_then(|range| Arena::new(range, DEFAULT_PAGE));
            }
            if !tried {
                self.create(space, config, &facts, reach);
            }
        }
        let all = [(Which::Dynamic, &self.dynamic), (Which::Default, &self.default)];
        let reached: ArrayVec<Which, 2> = all
            .iter()
            .filter(|(_, arena)| arena.as_ref().is_some_and(|arena| arena.first_page_end() <= reach.saturating_add(1)))
            .map(|(which, _)| *which)
            .collect();
        if !reached.is_empty() {
            return Ok(reached);
        }
        let lowest = all.iter().filter_map(|(_, arena)| Some(arena.as_ref()?.range.start())).min();
        Err(match (lowest, &self.refused) {
            (Some(lowest), _) => DmaError::MaskTooSmall { mask, lowest },
            (None, Some((_, why))) => why.clone().into(),
            (None, None) => DmaError::NoDevice,
        })
    }

    fn create(&mut self, space: &AddressSpace, config: &DmaConfig, facts: &WindowFacts, reach: u64) {
        let mut request = WindowRequest::bytes(config.capacity).reach(reach);
        if let Some(page) = config.page.or_else(|| huge_page(space.registry().host().as_ref(), facts, config)) {
            request = request.page(page).carries(page);
        }
        match space.create_window(&request) {
            Ok(window) => self.dynamic = Arena::new(window.range, window.page),
            Err(why) => {
                tracing::debug!(%why, "the default window serves");
                self.refused = Some((reach, why));
            }
        }
    }

    pub(super) fn page(&self, which: Which) -> Result<PageShift, DmaError> {
        self.arena(which).map(|arena| arena.page)
    }

    /// Allocates `bytes` in one piece, whole pages, that devices with `mask` reach.
    pub(super) fn allocate(&mut self, which: Which, bytes: u64, mask: DmaMask) -> Result<Place, DmaError> {
        let arena = self.arena_mut(which)?;
        let (window, page) = (arena.range, arena.page);
        let no_room = |largest| DmaError::NoRoom { bytes, window, largest };
        let Some(span) = arena.iovas.allocate(bytes, page) else { return Err(no_room(arena.iovas.largest_free())) };
        if !mask.reaches(span.range()) {
            // Devices with a larger mask have taken the lower addresses.
            arena.iovas.free(span);
            return Err(no_room(0));
        }
        Ok(Place { which, span })
    }

    pub(super) fn give_back(&mut self, place: Place) {
        if let Ok(arena) = self.arena_mut(place.which) {
            arena.iovas.free(place.span);
        }
    }

    fn arena(&self, which: Which) -> Result<&Arena, DmaError> {
        match which {
            Which::Dynamic => self.dynamic.as_ref(),
            Which::Default => self.default.as_ref(),
        }
        .ok_or(DmaError::NoDevice)
    }

    fn arena_mut(&mut self, which: Which) -> Result<&mut Arena, DmaError> {
        match which {
            Which::Dynamic => self.dynamic.as_mut(),
            Which::Default => self.default.as_mut(),
        }
        .ok_or(DmaError::NoDevice)
    }
}

impl Arena {
    /// Returns the end of the first page it allocates.
    fn first_page_end(&self) -> u64 {
        self.range.start().0.saturating_add(self.page.bytes())
    }
}

/// Finds the largest IOMMU page above the host's for which there is a page of hugetlb, and of which
/// the window has many.
fn huge_page(host: &dyn Host, facts: &WindowFacts, config: &DmaConfig) -> Option<PageShift> {
    let worth = |page: &PageShift| *page > facts.host_page && page.bytes() <= config.capacity / FEWEST_PAGES;
    facts.page_sizes().rev().filter(worth).find(|page| {
        let one = host.share(page.bytes(), *page);
        one.inspect(|memory| host.disown(memory)).is_ok()
    })
}
