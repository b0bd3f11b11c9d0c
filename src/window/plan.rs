//! Plans: the calls that lead to a window, their cost, and the reasons.

use super::Reason;
use super::table::Teardown;
use crate::addr::{Iova, PageShift};

/// One call of a plan, in each container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `VFIO_IOMMU_SPAPR_TCE_REMOVE`: removes a window, or the waiting default window.
    Remove(Iova),
    /// `VFIO_IOMMU_SPAPR_TCE_CREATE`.
    Create {
        /// IOMMU page of the window.
        page: PageShift,
        /// Bytes, a power of two.
        size: u64,
        /// Levels of the TCE table.
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
    /// Start of the window; `None` if the firmware chooses.
    pub start: Option<Iova>,
    /// Size in bytes.
    pub size: u64,
    /// IOMMU page.
    pub page: PageShift,
    /// Levels of the TCE table.
    pub levels: u32,
}

/// What will be done, its cost, and the reasons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The calls, in order, for each container; none if an existing window serves.
    pub steps: Vec<Step>,
    /// The window that will hold the request.
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
    /// Number of ioctls, over all containers.
    pub ioctls: u32,
    /// Reasons for the choices.
    pub reasons: Vec<Reason>,
}
