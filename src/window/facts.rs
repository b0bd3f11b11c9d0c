//! Facts a host reports about DMA windows.

use crate::addr::{Iova, IovaRange, PageShift};
use crate::host::Platform;
use crate::uapi::spapr::{INFO_DDW, TceInfo};

/// DMA window facts from `VFIO_IOMMU_SPAPR_TCE_GET_INFO` and the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowFacts {
    /// The platform whose rules hold.
    pub platform: Platform,
    /// Page size of the host kernel.
    pub host_page: PageShift,
    /// The default window; `None` if the kernel reports size 0.
    pub default: Option<IovaRange>,
    /// Bit n: the hardware has IOMMU pages of 2^n bytes.
    pub pages: u64,
    /// Number of dynamic windows; `None` if the firmware has none, and then VFIO has no usable
    /// window at all.
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
}
