//! DMA windows: the limits of a host, requests, and the windows that exist. [`AddressSpace::plan`]
//! says which window a request leads to and what it costs.
//!
//! [`AddressSpace::plan`]: crate::space::AddressSpace::plan

mod error;
mod forecast;
mod plan;
mod table;
#[cfg(test)]
mod tests;

pub use error::{PlanError, Reason};
pub use forecast::Forecast;
pub(crate) use plan::{LiveWindow, PlanInput, plan, plan_removal};
pub use plan::{Plan, Planned, Step};
pub(crate) use table::Holder;
pub use table::{Teardown, locked_bytes};

use crate::addr::{Iova, IovaRange, PageShift};
use crate::host::Platform;
use crate::pci::Group;
use crate::uapi::spapr::{INFO_DDW, TceInfo};
use core::fmt;
use std::collections::BTreeMap;
use table::SECOND;

/// End of the bus addresses that powernv's host bridge decodes as 32-bit MMIO.
const MMIO_END: Iova = Iova(4 << 30);

/// DMA window facts from `VFIO_IOMMU_SPAPR_TCE_GET_INFO` and the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowFacts {
    /// Platform, whose rules apply.
    pub platform: Platform,
    /// Page size of the host kernel.
    pub host_page: PageShift,
    /// The default window; `None` if the kernel reports size 0.
    pub default: Option<IovaRange>,
    /// IOMMU pages of the hardware: bit n stands for pages of 2^n bytes.
    pub pages: u64,
    /// Number of dynamic windows; `None` if the firmware has none: VFIO then has no usable window.
    pub windows: Option<u32>,
}

/// The default window's page on every platform.
pub const DEFAULT_PAGE: PageShift = PageShift::P4K;

impl WindowFacts {
    /// Reads the facts from the kernel's answer.
    pub fn new(platform: Platform, host_page: PageShift, info: &TceInfo) -> Self {
        let size = u64::from(info.dma32_window_size);
        let default = IovaRange::new(Iova(u64::from(info.dma32_window_start)), size).ok();
        let count = info.ddw.max_dynamic_windows_supported;
        // Without DDW in the firmware the kernel reports all ones and 0 levels; neither can be
        // relied on.
        let has_ddw = info.flags & INFO_DDW != 0 && count != u32::MAX && count != 0 && info.ddw.levels != 0;
        Self { platform, host_page, default, pages: info.ddw.pgsizes, windows: has_ddw.then_some(count) }
    }

    /// Iterates over the IOMMU pages the hardware has and the kernel can use, smallest first. The
    /// kernel's arithmetic fails for 16 GiB.
    pub fn page_sizes(&self) -> impl DoubleEndedIterator<Item = PageShift> + '_ {
        (12..34).filter(|shift| self.pages & (1 << shift) != 0).filter_map(PageShift::new)
    }

    /// Returns the bus addresses at which nothing may be mapped: powernv's host bridge decodes them
    /// as 32-bit MMIO, from the end of the default window up to 4 GiB, and DMA there does not reach
    /// memory.
    pub fn mmio(&self) -> Option<IovaRange> {
        let default = self.default.filter(|_| self.platform == Platform::Powernv)?;
        IovaRange::between(default.end(), MMIO_END)
    }

    /// Returns the MMIO that `asked` meets, if any.
    pub(crate) fn mmio_in(&self, asked: IovaRange) -> Option<IovaRange> {
        self.mmio().filter(|mmio| mmio.overlaps(&asked))
    }

    /// Fails if any of `asked` is decoded as MMIO.
    pub(crate) fn check_mmio(&self, asked: IovaRange) -> Result<(), PlanError> {
        match self.mmio_in(asked) {
            Some(mmio) => Err(PlanError::OverMmio { asked, mmio }),
            None => Ok(()),
        }
    }

    /// Returns whether a window that holds `start` is powernv's second one.
    pub(crate) fn is_high(&self, start: Iova) -> bool {
        self.platform == Platform::Powernv && start >= SECOND
    }

    /// Returns the cheapest window that can hold a slot.
    pub(crate) fn holder(&self) -> Option<Holder> {
        let page = self.page_sizes().next().filter(|_| self.platform == Platform::Powernv)?;
        let size = table::smallest(self, page);
        Some(Holder { page, size, locked_bytes: table::locked_bytes(self, page, size, 1) })
    }
}

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A window of at least that many bytes, wherever it starts.
    Bytes(u64),
    /// A window that holds these bus addresses.
    Cover(IovaRange),
}

/// A request for a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WindowRequest {
    /// What the window is for.
    pub want: Want,
    /// Exactly this IOMMU page; `None` for the largest that fits.
    pub page: Option<PageShift>,
    /// The largest IOMMU page the memory can serve; `None` for ordinary memory, which serves the
    /// host's page.
    pub max_iommu_page: Option<PageShift>,
    /// Last bus address the device can address; `None` for 64 bits.
    pub reach: Option<u64>,
    /// Minimum number of TCEs, to leave room for more than the current request.
    pub entries: u64,
}

impl WindowRequest {
    fn new(want: Want) -> Self {
        Self { want, page: None, max_iommu_page: None, reach: None, entries: 0 }
    }

    /// Requests a window of at least `bytes`.
    pub fn bytes(bytes: u64) -> Self {
        Self::new(Want::Bytes(bytes))
    }

    /// Requests a window that holds `range`.
    pub fn cover(range: IovaRange) -> Self {
        Self::new(Want::Cover(range))
    }

    /// Requires exactly this IOMMU page.
    pub fn page(self, page: PageShift) -> Self {
        Self { page: Some(page), ..self }
    }

    /// Declares that the memory can serve IOMMU pages up to `page`.
    pub fn max_iommu_page(self, page: PageShift) -> Self {
        Self { max_iommu_page: Some(page), ..self }
    }

    /// Requires at least that many TCEs.
    pub fn entries(self, entries: u64) -> Self {
        Self { entries, ..self }
    }

    /// Declares that the device reaches bus addresses up to `reach`.
    pub fn reach(self, reach: u64) -> Self {
        Self { reach: Some(reach), ..self }
    }
}

/// Origin of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The platform's default window.
    Default,
    /// Created because the caller requested a window.
    Requested,
    /// Created because something was mapped there; removed when nothing is left in it.
    Demand,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::Requested => "requested",
            Self::Demand => "demand",
        })
    }
}

/// A DMA window: a stretch of bus addresses with its TCE table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Bus addresses of the window.
    pub range: IovaRange,
    /// IOMMU page of the window.
    pub page: PageShift,
    /// Levels of the TCE table.
    pub levels: u32,
    /// Why it was created.
    pub origin: Origin,
}

/// State of the default window. It is created by the first MAP, UNMAP or CREATE, and never comes
/// back after it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultWindow {
    /// The kernel will create it at the next call that needs a window.
    Pending,
    /// It exists.
    Live,
    /// It was removed, or there is none.
    Gone,
}

impl fmt::Display for DefaultWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Live => "live",
            Self::Gone => "gone",
        })
    }
}

/// The windows of an address space: at most two, the same in all its containers.
#[derive(Clone, Debug)]
pub(crate) struct Windows {
    /// State of the default window.
    pub(crate) default: DefaultWindow,
    live: Vec<Window>,
}

impl Windows {
    /// Creates the windows of a container whose first group was just attached.
    pub(crate) fn new() -> Self {
        Self { default: DefaultWindow::Pending, live: Vec::with_capacity(2) }
    }

    /// Iterates over the existing windows.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Window> {
        self.live.iter()
    }

    /// Returns the window that holds all of `range`.
    pub(crate) fn containing(&self, range: IovaRange) -> Option<&Window> {
        self.live.iter().find(|window| window.range.contains_range(&range))
    }

    /// Marks the window that starts at `start` as requested: it stays until it is removed
    /// explicitly.
    pub(crate) fn mark_requested(&mut self, start: Iova) {
        let demand = |window: &&mut Window| window.range.start() == start && window.origin == Origin::Demand;
        if let Some(window) = self.live.iter_mut().find(demand) {
            window.origin = Origin::Requested;
        }
    }

    /// Inserts a window.
    pub(crate) fn insert(&mut self, window: Window) {
        if window.origin == Origin::Default {
            self.default = DefaultWindow::Live;
        }
        self.live.push(window);
    }

    /// Removes and returns the window with exactly that range.
    pub(crate) fn remove(&mut self, range: IovaRange) -> Option<Window> {
        let at = self.live.iter().position(|window| window.range == range)?;
        let window = self.live.remove(at);
        if window.origin == Origin::Default {
            self.default = DefaultWindow::Gone;
        }
        Some(window)
    }
}

impl Default for Windows {
    fn default() -> Self {
        Self::new()
    }
}

/// Windows the kernel refused to create, by group. They are kept for the lifetime of the process:
/// each failed creation leaks its charge, and the firmware's refusal lasts until reboot.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefusedWindows(BTreeMap<Group, Refused>);

#[derive(Clone, Debug, Default)]
struct Refused {
    /// Whether the firmware failed a window; the kernel then creates none for this group.
    poisoned: bool,
    /// Smallest refused size, by page.
    sizes: BTreeMap<PageShift, u64>,
    /// Windows refused because the machine had too little memory.
    no_memory: Vec<NoMemory>,
}

/// A window whose table did not fit in memory.
#[derive(Clone, Copy, Debug)]
struct NoMemory {
    page: PageShift,
    size: u64,
    /// Available bytes from which on the window may be requested again.
    retry_at: u64,
}

impl RefusedWindows {
    /// Records that the kernel refused a window, or, if it `poisons`, will refuse all.
    pub(crate) fn remember(&mut self, group: Group, page: PageShift, size: u64, poisons: bool) {
        let refused = self.0.entry(group).or_default();
        refused.poisoned |= poisons;
        let least = refused.sizes.entry(page).or_insert(size);
        *least = size.min(*least);
    }

    /// Records that the kernel had too little memory for a window's table. The window is refused
    /// until `retry_at` bytes are available.
    pub(crate) fn remember_no_memory(&mut self, group: Group, page: PageShift, size: u64, retry_at: u64) {
        self.0.entry(group).or_default().no_memory.push(NoMemory { page, size, retry_at });
    }

    /// Drops refusals for lack of memory that `available` bytes resolve.
    pub(crate) fn retry_with(&mut self, available: Option<u64>) {
        let Some(available) = available else { return };
        self.0.values_mut().for_each(|refused| refused.no_memory.retain(|window| available < window.retry_at));
    }

    /// Fails if the kernel refused such a window for the group before.
    pub(crate) fn check(&self, group: Group, page: PageShift, size: u64) -> Result<(), PlanError> {
        match self.0.get(&group) {
            Some(refused) if refused.poisoned => Err(PlanError::Poisoned),
            Some(refused) if refused.sizes.get(&page).is_some_and(|&least| least <= size) => {
                Err(PlanError::RefusedBefore { size, page })
            }
            Some(refused) if refused.no_memory.iter().any(|window| window.page == page && window.size <= size) => {
                Err(PlanError::RefusedBefore { size, page })
            }
            _ => Ok(()),
        }
    }
}
