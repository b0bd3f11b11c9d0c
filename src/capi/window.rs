//! DMA windows: requests, plans and what exists.

use crate::memory::page;
use crate::pointer::SizePrefixed;
use crate::status::Failure;
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::space::AddressSpace;
use spapr_iommu::window::{self, DefaultWindow, Origin, Plan, Window};

/// A range of bus addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Range {
    /// First bus address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

impl Range {
    pub(crate) fn get(self) -> Result<IovaRange, Failure> {
        Ok(IovaRange::new(Iova(self.start), self.size)?)
    }
}

impl From<IovaRange> for Range {
    fn from(range: IovaRange) -> Self {
        Self { start: range.start().0, size: range.len() }
    }
}

/// A request for a DMA window: of `bytes` wherever it starts, or one that holds `cover`. Fields
/// that are 0 leave the choice to the library.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WindowRequest {
    /// sizeof (spapr_iommu_window_request).
    pub struct_size: u32,
    /// Exactly this IOMMU page, as a power of two; 0 for the largest that fits.
    pub page_shift: u32,
    /// At least so many bytes; 0 with `cover`.
    pub bytes: u64,
    /// Bus addresses it must hold; size 0 with `bytes`.
    pub cover: Range,
    /// Last bus address that the device can address; 0 for 64 bits.
    pub reach: u64,
    /// At least so many TCEs.
    pub entries: u64,
    /// Largest IOMMU page that the memory can serve, as a power of two; 0 for the host's page.
    pub max_page_shift: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: integers without padding, the first of them the size.
#[allow(unsafe_code, reason = "vouches for the layout")]
unsafe impl SizePrefixed for WindowRequest {
    const FIRST: usize = 56;
    const NAME: &'static str = "spapr_iommu_window_request";
}

impl WindowRequest {
    pub(crate) fn get(self) -> Result<window::WindowRequest, Failure> {
        let wrong = |what: &str| Failure::argument("window-request", format!("the request for a window {what}"));
        let mut request = match (self.bytes, self.cover.size) {
            (0, 0) => return Err(wrong("has neither bytes nor bus addresses to cover: set one")),
            (bytes, 0) => window::WindowRequest::bytes(bytes),
            (0, _) => window::WindowRequest::cover(self.cover.get()?),
            _ => return Err(wrong("has bytes as well as bus addresses to cover: set one of them to 0")),
        };
        if self.reserved != 0 {
            return Err(wrong("has a reserved field that is not 0"));
        }
        if let Some(page) = page(self.page_shift)? {
            request = request.page(page);
        }
        if let Some(page) = page(self.max_page_shift)? {
            request = request.max_iommu_page(page);
        }
        if self.reach != 0 {
            request = request.reach(self.reach);
        }
        Ok(request.entries(self.entries))
    }
}

/// Origin of a window: the platform's default window.
pub const SPAPR_IOMMU_ORIGIN_DEFAULT: u32 = 0;
/// Origin of a window: the caller requested it.
pub const SPAPR_IOMMU_ORIGIN_REQUESTED: u32 = 1;
/// Origin of a window: something was mapped there; it goes when nothing is left in it.
pub const SPAPR_IOMMU_ORIGIN_DEMAND: u32 = 2;

/// A DMA window that exists.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WindowStatus {
    /// Its bus addresses.
    pub range: Range,
    /// Bytes that are mapped in it.
    pub mapped: u64,
    /// Its IOMMU page, as a power of two.
    pub page_shift: u32,
    /// Levels of its TCE table.
    pub levels: u32,
    /// Why it was created: SPAPR_IOMMU_ORIGIN_*.
    pub origin: u32,
    /// 0.
    pub reserved: [u32; 5],
}

impl WindowStatus {
    pub(crate) fn new(window: &Window, mapped: u64) -> Self {
        let origin = match window.origin {
            Origin::Default => SPAPR_IOMMU_ORIGIN_DEFAULT,
            Origin::Requested => SPAPR_IOMMU_ORIGIN_REQUESTED,
            Origin::Demand => SPAPR_IOMMU_ORIGIN_DEMAND,
        };
        let (page_shift, levels) = (window.page.get(), window.levels);
        Self { range: window.range.into(), mapped, page_shift, levels, origin, reserved: [0; 5] }
    }

    pub(crate) fn all(space: &AddressSpace) -> Vec<Self> {
        space.status().windows.iter().map(|(window, mapped)| Self::new(window, *mapped)).collect()
    }
}

/// What a request for a window leads to, and costs. Nothing is created.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct WindowPlan {
    /// Start of the window; SPAPR_IOMMU_FIRMWARE_CHOOSES if the firmware chooses it.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// Its IOMMU page, as a power of two.
    pub page_shift: u32,
    /// Levels of its TCE table.
    pub levels: u32,
    /// Bytes of locked memory it takes, over all containers.
    pub locked_bytes: u64,
    /// The most that is locked meanwhile.
    pub peak_bytes: u64,
    /// Entries that its removal visits one by one, per container.
    pub teardown_entries: u64,
    /// Number of ioctls, over all containers.
    pub ioctls: u32,
    /// 0.
    pub reserved: [u32; 5],
}

/// `start` of a plan if the firmware chooses where the window starts.
pub const SPAPR_IOMMU_FIRMWARE_CHOOSES: u64 = 0xffff_ffff_ffff_ffff;

impl From<&Plan> for WindowPlan {
    fn from(plan: &Plan) -> Self {
        Self {
            start: plan.window.start.map_or(SPAPR_IOMMU_FIRMWARE_CHOOSES, |start| start.0),
            size: plan.window.size,
            page_shift: plan.window.page.get(),
            levels: plan.window.levels,
            locked_bytes: plan.locked_bytes,
            peak_bytes: plan.peak_bytes,
            teardown_entries: plan.teardown.entries,
            ioctls: plan.ioctls,
            reserved: [0; 5],
        }
    }
}

/// State of the default window: the kernel creates it with the next call that needs a window.
pub const SPAPR_IOMMU_DEFAULT_PENDING: u32 = 0;
/// State of the default window: it exists.
pub const SPAPR_IOMMU_DEFAULT_LIVE: u32 = 1;
/// State of the default window: it was removed, or no group is attached.
pub const SPAPR_IOMMU_DEFAULT_GONE: u32 = 2;

pub(crate) fn default_state(state: DefaultWindow) -> u32 {
    match state {
        DefaultWindow::Pending => SPAPR_IOMMU_DEFAULT_PENDING,
        DefaultWindow::Live => SPAPR_IOMMU_DEFAULT_LIVE,
        DefaultWindow::Gone => SPAPR_IOMMU_DEFAULT_GONE,
    }
}
