//! Where powernv puts windows, and the bus addresses it keeps for itself.
//!
//! The kernel fills the lowest free slot of a container, and the slot fixes the start: bus address
//! 0 for the first, 1 << 59 for the second (`pnv_pci_ioda2_table_alloc_pages`). A window that is to
//! start at 1 << 59 while the first slot is free needs a small one made before it, which goes
//! afterwards.

use super::input::LiveWindow;
use super::{DefaultWindow, Origin, PlanError, PlanInput, Want, WindowFacts, WindowRequest, table};
use crate::addr::{Iova, IovaRange, PageShift};
use crate::host::Platform;

/// Where the window of slot 1 starts (`arch/powerpc/platforms/powernv/pci-ioda-tce.c`).
pub(super) const SECOND: Iova = Iova(1 << 59);

/// The host bridge decodes 32-bit MMIO up to here.
const MMIO_END: Iova = Iova(4 << 30);

/// A small window that holds the first slot while another is made in the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) page: PageShift,
    pub(crate) size: u64,
    /// Bytes of locked memory it is charged with while it is there.
    pub(crate) locked_bytes: u64,
}

impl WindowFacts {
    /// Bus addresses that no window may be mapped in: powernv's host bridge decodes them as 32-bit
    /// MMIO, from the end of the default window up to 4 GiB, and DMA there does not reach memory.
    pub fn mmio(&self) -> Option<IovaRange> {
        let default = self.default.filter(|_| self.platform == Platform::Powernv)?;
        IovaRange::between(default.end(), MMIO_END)
    }

    /// Refuses `asked` if any of it is decoded as MMIO.
    pub(crate) fn clear_of_mmio(&self, asked: IovaRange) -> Result<(), PlanError> {
        match self.mmio().filter(|mmio| mmio.intersection(&asked).is_some()) {
            Some(mmio) => Err(PlanError::OverMmio { asked, mmio }),
            None => Ok(()),
        }
    }

    /// Whether a window that holds `start` is powernv's second one.
    pub(crate) fn is_high(&self, start: Iova) -> bool {
        self.platform == Platform::Powernv && start >= SECOND
    }

    /// The cheapest window, to hold a slot with.
    pub(crate) fn holder(&self) -> Option<Holder> {
        let page = self.page_sizes().next().filter(|_| self.platform == Platform::Powernv)?;
        let size = table::smallest(self, page);
        Some(Holder { page, size, locked_bytes: table::locked_bytes(self, page, size, 1) })
    }
}

/// The slots of a container.
pub(super) struct Slots {
    first: Option<IovaRange>,
    second: Option<IovaRange>,
}

impl Slots {
    pub(super) fn new(facts: &WindowFacts, default: DefaultWindow, live: &[LiveWindow]) -> Self {
        let ranges = || live.iter().map(|live| live.window.range);
        let waits = facts.default.filter(|_| default == DefaultWindow::Pending);
        let first = ranges().find(|range| range.start() < SECOND).or(waits);
        Self { first, second: ranges().find(|range| range.start() >= SECOND) }
    }

    pub(super) fn first_is_free(&self) -> bool {
        self.first.is_none()
    }

    /// The slot for a window that is asked for. Where none is free that will do, the error says so.
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

    /// Whether a window of so many bytes fits below the MMIO.
    fn low(&self, facts: &WindowFacts, request: &WindowRequest, bytes: u64) -> Result<(), PlanError> {
        let fewest = request.page.map_or(0, |page| request.entries.saturating_mul(page.bytes()));
        let size = bytes.max(fewest);
        match facts.mmio().filter(|mmio| size > mmio.start().0) {
            Some(mmio) => Err(PlanError::BelowMmio { size, mmio }),
            None => Ok(()),
        }
    }
}

/// An idle window to remove for the one that is asked for; `None` while a slot that will do is
/// free.
pub(super) fn idle(input: &PlanInput, request: &WindowRequest) -> Option<usize> {
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
