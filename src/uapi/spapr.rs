//! The sPAPR TCE container (`drivers/vfio/vfio_iommu_spapr_tce.c`).

use super::{Number, number};

/// `VFIO_IOMMU_SPAPR_TCE_GET_INFO`. Type1's `VFIO_IOMMU_GET_INFO` has the same number.
pub const TCE_GET_INFO: Number = number(12);
/// `VFIO_IOMMU_SPAPR_REGISTER_MEMORY`.
pub const REGISTER_MEMORY: Number = number(17);
/// `VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY`.
pub const UNREGISTER_MEMORY: Number = number(18);
/// `VFIO_IOMMU_SPAPR_TCE_CREATE`.
pub const TCE_CREATE: Number = number(19);
/// `VFIO_IOMMU_SPAPR_TCE_REMOVE`.
pub const TCE_REMOVE: Number = number(20);

/// IOMMU type of a v1 container: `VFIO_SPAPR_TCE_IOMMU`.
pub const TCE_IOMMU: u32 = 2;
/// IOMMU type of a v2 container: `VFIO_SPAPR_TCE_v2_IOMMU`.
pub const TCE_V2_IOMMU: u32 = 7;

/// Set in `flags` when `ddw` of [`TceInfo`] is filled: `VFIO_IOMMU_SPAPR_INFO_DDW`.
pub const INFO_DDW: u32 = 1;

/// `struct vfio_iommu_spapr_tce_ddw_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TceDdwInfo {
    /// Bit n: the hardware has IOMMU pages of 2^n bytes.
    pub pgsizes: u64,
    /// Windows a PE can have; all ones where the firmware has no DDW.
    pub max_dynamic_windows_supported: u32,
    /// Nominal limit of TCE table levels.
    pub levels: u32,
}

/// `struct vfio_iommu_spapr_tce_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TceInfo {
    /// Size of the caller's structure, bytes.
    pub argsz: u32,
    /// `INFO_DDW` or 0.
    pub flags: u32,
    /// Bus address where the default window starts.
    pub dma32_window_start: u32,
    /// Size of the default window, bytes.
    pub dma32_window_size: u32,
    /// Dynamic DMA windows, where `flags` has `INFO_DDW`.
    pub ddw: TceDdwInfo,
}

/// `struct vfio_iommu_spapr_register_memory`, for REGISTER and UNREGISTER.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegisterMemory {
    /// Size of the caller's structure, bytes.
    pub argsz: u32,
    /// Must be 0.
    pub flags: u32,
    /// User address, host-page aligned.
    pub vaddr: u64,
    /// Bytes, a multiple of the host page.
    pub size: u64,
}

/// `struct vfio_iommu_spapr_tce_create`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TceCreate {
    /// Size of the caller's structure, bytes.
    pub argsz: u32,
    /// Must be 0.
    pub flags: u32,
    /// IOMMU page is 2^`page_shift` bytes.
    pub page_shift: u32,
    /// Ignored by the kernel.
    pub resv1: u32,
    /// Window size, bytes.
    pub window_size: u64,
    /// Levels of the TCE table.
    pub levels: u32,
    /// Ignored by the kernel.
    pub resv2: u32,
    /// Out: bus address of the new window.
    pub start_addr: u64,
}

/// `struct vfio_iommu_spapr_tce_remove`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TceRemove {
    /// Size of the caller's structure, bytes.
    pub argsz: u32,
    /// Must be 0.
    pub flags: u32,
    /// Bus address of the window. The kernel accepts any address inside it.
    pub start_addr: u64,
}
