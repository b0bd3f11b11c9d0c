//! VFIO core: containers, groups, devices, and the map calls that sPAPR shares with type1.

use super::{Number, number};

/// `VFIO_GET_API_VERSION`, on a container.
pub const GET_API_VERSION: Number = number(0);
/// `VFIO_CHECK_EXTENSION`, on a container.
pub const CHECK_EXTENSION: Number = number(1);
/// `VFIO_SET_IOMMU`, on a container.
pub const SET_IOMMU: Number = number(2);
/// `VFIO_GROUP_GET_STATUS`, on a group.
pub const GROUP_GET_STATUS: Number = number(3);
/// `VFIO_GROUP_SET_CONTAINER`, on a group.
pub const GROUP_SET_CONTAINER: Number = number(4);
/// `VFIO_GROUP_UNSET_CONTAINER`, on a group.
pub const GROUP_UNSET_CONTAINER: Number = number(5);
/// `VFIO_GROUP_GET_DEVICE_FD`, on a group.
pub const GROUP_GET_DEVICE_FD: Number = number(6);
/// `VFIO_DEVICE_GET_INFO`, on a device.
pub const DEVICE_GET_INFO: Number = number(7);
/// `VFIO_DEVICE_GET_REGION_INFO`, on a device.
pub const DEVICE_GET_REGION_INFO: Number = number(8);
/// `VFIO_DEVICE_GET_IRQ_INFO`, on a device.
pub const DEVICE_GET_IRQ_INFO: Number = number(9);
/// `VFIO_DEVICE_SET_IRQS`, on a device.
pub const DEVICE_SET_IRQS: Number = number(10);
/// `VFIO_DEVICE_RESET`, on a device.
pub const DEVICE_RESET: Number = number(11);
/// `VFIO_IOMMU_MAP_DMA`, on a container.
pub const IOMMU_MAP_DMA: Number = number(13);
/// `VFIO_IOMMU_UNMAP_DMA`, on a container.
pub const IOMMU_UNMAP_DMA: Number = number(14);
/// `VFIO_IOMMU_ENABLE`, on a v1 container.
pub const IOMMU_ENABLE: Number = number(15);
/// `VFIO_IOMMU_DISABLE`, on a v1 container.
pub const IOMMU_DISABLE: Number = number(16);

/// The API version this crate speaks.
pub const API_VERSION: i32 = 0;

/// The group may be used: none of its devices has a host driver.
pub const GROUP_FLAGS_VIABLE: u32 = 1;
/// The group is in a container.
pub const GROUP_FLAGS_CONTAINER_SET: u32 = 2;

/// The device may read: `VFIO_DMA_MAP_FLAG_READ`.
pub const DMA_MAP_FLAG_READ: u32 = 1;
/// The device may write: `VFIO_DMA_MAP_FLAG_WRITE`.
pub const DMA_MAP_FLAG_WRITE: u32 = 2;

/// The device can be reset: `VFIO_DEVICE_FLAGS_RESET`.
pub const DEVICE_FLAGS_RESET: u32 = 1;
/// The device is a PCI device: `VFIO_DEVICE_FLAGS_PCI`.
pub const DEVICE_FLAGS_PCI: u32 = 2;

/// The region can be read: `VFIO_REGION_INFO_FLAG_READ`.
pub const REGION_INFO_FLAG_READ: u32 = 1;
/// The region can be written: `VFIO_REGION_INFO_FLAG_WRITE`.
pub const REGION_INFO_FLAG_WRITE: u32 = 2;
/// The region can be mapped: `VFIO_REGION_INFO_FLAG_MMAP`.
pub const REGION_INFO_FLAG_MMAP: u32 = 4;
/// Capabilities follow: `VFIO_REGION_INFO_FLAG_CAPS`.
pub const REGION_INFO_FLAG_CAPS: u32 = 8;

/// Region number of BAR 0; BAR n is region n.
pub const PCI_BAR0_REGION_INDEX: u32 = 0;
/// Region number of the configuration space.
pub const PCI_CONFIG_REGION_INDEX: u32 = 7;

/// Interrupt index of the interrupt pin.
pub const PCI_INTX_IRQ_INDEX: u32 = 0;
/// Interrupt index of MSI.
pub const PCI_MSI_IRQ_INDEX: u32 = 1;
/// Interrupt index of MSI-X.
pub const PCI_MSIX_IRQ_INDEX: u32 = 2;
/// Interrupt index of uncorrected errors, of PCI Express devices only.
pub const PCI_ERR_IRQ_INDEX: u32 = 3;
/// Interrupt index of the host's request to give the device back.
pub const PCI_REQ_IRQ_INDEX: u32 = 4;

/// The interrupt can signal an eventfd: `VFIO_IRQ_INFO_EVENTFD`.
pub const IRQ_INFO_EVENTFD: u32 = 1;
/// It can be masked and unmasked: `VFIO_IRQ_INFO_MASKABLE`.
pub const IRQ_INFO_MASKABLE: u32 = 2;
/// It masks itself each time it fires: `VFIO_IRQ_INFO_AUTOMASKED`.
pub const IRQ_INFO_AUTOMASKED: u32 = 4;
/// All interrupts to be used must be enabled at once: `VFIO_IRQ_INFO_NORESIZE`.
pub const IRQ_INFO_NORESIZE: u32 = 8;

/// No data: `VFIO_IRQ_SET_DATA_NONE`.
pub const IRQ_SET_DATA_NONE: u32 = 1;
/// A byte for each interrupt: `VFIO_IRQ_SET_DATA_BOOL`.
pub const IRQ_SET_DATA_BOOL: u32 = 2;
/// An eventfd, or -1, for each interrupt: `VFIO_IRQ_SET_DATA_EVENTFD`.
pub const IRQ_SET_DATA_EVENTFD: u32 = 4;
/// Masks: `VFIO_IRQ_SET_ACTION_MASK`.
pub const IRQ_SET_ACTION_MASK: u32 = 8;
/// Unmasks: `VFIO_IRQ_SET_ACTION_UNMASK`.
pub const IRQ_SET_ACTION_UNMASK: u32 = 16;
/// Enables with eventfds, disables with count 0, otherwise fires: `VFIO_IRQ_SET_ACTION_TRIGGER`.
pub const IRQ_SET_ACTION_TRIGGER: u32 = 32;

/// `struct vfio_group_status`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GroupStatus {
    /// Size of the caller's structure, bytes.
    pub argsz: u32,
    /// `GROUP_FLAGS_*`, set by the kernel.
    pub flags: u32,
}

/// `struct vfio_device_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Size of the caller's structure, bytes.
    pub argsz: u32,
    /// `DEVICE_FLAGS_*`.
    pub flags: u32,
    /// Number of regions.
    pub num_regions: u32,
    /// Number of interrupt indices.
    pub num_irqs: u32,
    /// Offset of the first capability, 0 for none.
    pub cap_offset: u32,
    /// Padding.
    pub pad: u32,
}

/// `struct vfio_region_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegionInfo {
    /// Size of the caller's structure, bytes.
    pub argsz: u32,
    /// `REGION_INFO_FLAG_*`.
    pub flags: u32,
    /// Region number, set by the caller.
    pub index: u32,
    /// Offset of the first capability, 0 for none.
    pub cap_offset: u32,
    /// Size of the region, bytes; 0 when the device has none.
    pub size: u64,
    /// Where the region starts in the device's file.
    pub offset: u64,
}

/// `struct vfio_irq_info`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqInfo {
    /// Size of the caller's structure, bytes.
    pub argsz: u32,
    /// `IRQ_INFO_*`.
    pub flags: u32,
    /// Interrupt index, set by the caller.
    pub index: u32,
    /// How many interrupts the index has.
    pub count: u32,
}

/// `struct vfio_irq_set` without its trailing data.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IrqSet {
    /// Size of the structure and its data, bytes.
    pub argsz: u32,
    /// One of `IRQ_SET_DATA_*` and one of `IRQ_SET_ACTION_*`.
    pub flags: u32,
    /// Interrupt index.
    pub index: u32,
    /// First interrupt concerned.
    pub start: u32,
    /// Number of interrupts.
    pub count: u32,
}

/// `struct vfio_iommu_type1_dma_map`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmaMap {
    /// Size of the caller's structure, bytes.
    pub argsz: u32,
    /// `DMA_MAP_FLAG_*`; sPAPR refuses any other bit, and requires at least one of them.
    pub flags: u32,
    /// User address.
    pub vaddr: u64,
    /// Bus address.
    pub iova: u64,
    /// Bytes.
    pub size: u64,
}

/// `struct vfio_iommu_type1_dma_unmap` without its trailing data, which sPAPR does not use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DmaUnmap {
    /// Size of the caller's structure, bytes.
    pub argsz: u32,
    /// Must be 0 on sPAPR.
    pub flags: u32,
    /// Bus address.
    pub iova: u64,
    /// Bytes.
    pub size: u64,
}
