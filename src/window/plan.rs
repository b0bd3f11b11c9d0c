//! What a plan says: the calls that lead to a window, what they cost, and why.

use super::Reason;
use super::table::Teardown;
use crate::addr::{Iova, PageShift};

/// Where powernv puts the window of slot 1 (`arch/powerpc/platforms/powernv/pci-ioda-tce.c`).
pub(super) const POWERNV_SECOND: Iova = Iova(1 << 59);

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
    /// Bytes of locked memory the steps are charged with, over all containers.
    pub locked_bytes: u64,
    /// What removing the window costs, in each container.
    pub teardown: Teardown,
    /// Ioctls, over all containers.
    pub ioctls: u32,
    /// Why.
    pub reasons: Vec<Reason>,
}
