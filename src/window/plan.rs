//! What a plan says: the calls that lead to a window, what they cost, and why.

use super::Reason;
use super::table::Teardown;
use crate::addr::{Iova, PageShift};

/// One call of a plan, in each container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `VFIO_IOMMU_SPAPR_TCE_REMOVE`: of a window, or of the waiting default window.
    Remove(Iova),
    /// `VFIO_IOMMU_SPAPR_TCE_CREATE`.
    Create {
        /// The page.
        page: PageShift,
        /// Bytes, a power of two.
        size: u64,
        /// Levels.
        levels: u32,
    },
    /// `VFIO_IOMMU_SPAPR_TCE_CREATE` of a small window in the first slot of a powernv container, so
    /// that the one created next starts at 1 << 59.
    HoldSlot {
        /// The page.
        page: PageShift,
        /// Bytes, a power of two.
        size: u64,
    },
    /// `VFIO_IOMMU_SPAPR_TCE_REMOVE` of that small window.
    FreeSlot,
}

/// The window a plan leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Where it starts; `None` where the firmware chooses.
    pub start: Option<Iova>,
    /// Bytes.
    pub size: u64,
    /// The page.
    pub page: PageShift,
    /// Levels.
    pub levels: u32,
}

/// What will be done, what it costs, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The calls, in order, for each container; none when a window that is there serves.
    pub steps: Vec<Step>,
    /// What will hold what was asked.
    pub window: Planned,
    /// Bytes of locked memory that the window, and the default window where it comes too, are
    /// charged with, over all containers.
    pub locked_bytes: u64,
    /// The most bytes of locked memory the steps are charged with at a time: with what
    /// [`Step::HoldSlot`] takes for the moment. What [`Step::Remove`] gives back before is not
    /// taken off.
    pub peak_bytes: u64,
    /// What removing the window costs, in each container.
    pub teardown: Teardown,
    /// Ioctls, over all containers.
    pub ioctls: u32,
    /// Why.
    pub reasons: Vec<Reason>,
}
