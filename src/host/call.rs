//! The calls of the kernel interface, as values.

use super::Fd;
use crate::uapi::{eeh, spapr, vfio};

/// A file to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    /// `/dev/vfio/vfio`.
    Container,
    /// `/dev/vfio/N`.
    Group(u32),
    /// A device of an open group, by name: its PCI address, `0000:00:00.0`.
    Device {
        /// The group's file.
        group: Fd,
        /// The device's name.
        name: &'a str,
    },
}

/// An ioctl with its argument. The kernel writes its answer into the same structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `VFIO_GET_API_VERSION` on a container.
    GetApiVersion,
    /// `VFIO_CHECK_EXTENSION` on a container.
    CheckExtension(u32),
    /// `VFIO_SET_IOMMU` on a container.
    SetIommu(u32),
    /// `VFIO_IOMMU_SPAPR_TCE_GET_INFO` on a container.
    TceGetInfo(spapr::TceInfo),
    /// `VFIO_IOMMU_ENABLE` on a v1 container.
    Enable,
    /// `VFIO_IOMMU_DISABLE` on a v1 container.
    Disable,
    /// `VFIO_IOMMU_SPAPR_REGISTER_MEMORY` on a container.
    RegisterMemory(spapr::RegisterMemory),
    /// `VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY` on a container.
    UnregisterMemory(spapr::RegisterMemory),
    /// `VFIO_IOMMU_MAP_DMA` on a container.
    MapDma(vfio::DmaMap),
    /// `VFIO_IOMMU_UNMAP_DMA` on a container.
    UnmapDma(vfio::DmaUnmap),
    /// `VFIO_IOMMU_SPAPR_TCE_CREATE` on a container.
    TceCreate(spapr::TceCreate),
    /// `VFIO_IOMMU_SPAPR_TCE_REMOVE` on a container.
    TceRemove(spapr::TceRemove),
    /// `VFIO_EEH_PE_OP` on a container.
    EehPeOp(eeh::PeOp),
    /// `VFIO_GROUP_GET_STATUS` on a group.
    GroupGetStatus(vfio::GroupStatus),
    /// `VFIO_GROUP_SET_CONTAINER` on a group.
    GroupSetContainer(Fd),
    /// `VFIO_GROUP_UNSET_CONTAINER` on a group.
    GroupUnsetContainer,
    /// `VFIO_DEVICE_GET_INFO` on a device.
    DeviceGetInfo(vfio::DeviceInfo),
    /// `VFIO_DEVICE_GET_REGION_INFO` on a device.
    DeviceGetRegionInfo(vfio::RegionInfo),
    /// `VFIO_DEVICE_GET_IRQ_INFO` on a device.
    DeviceGetIrqInfo(vfio::IrqInfo),
    /// `VFIO_DEVICE_RESET` on a device.
    DeviceReset,
}

impl Call {
    /// Returns the call's name in the kernel's headers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::GetApiVersion => "VFIO_GET_API_VERSION",
            Self::CheckExtension(_) => "VFIO_CHECK_EXTENSION",
            Self::SetIommu(_) => "VFIO_SET_IOMMU",
            Self::TceGetInfo(_) => "VFIO_IOMMU_SPAPR_TCE_GET_INFO",
            Self::Enable => "VFIO_IOMMU_ENABLE",
            Self::Disable => "VFIO_IOMMU_DISABLE",
            Self::RegisterMemory(_) => "VFIO_IOMMU_SPAPR_REGISTER_MEMORY",
            Self::UnregisterMemory(_) => "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY",
            Self::MapDma(_) => "VFIO_IOMMU_MAP_DMA",
            Self::UnmapDma(_) => "VFIO_IOMMU_UNMAP_DMA",
            Self::TceCreate(_) => "VFIO_IOMMU_SPAPR_TCE_CREATE",
            Self::TceRemove(_) => "VFIO_IOMMU_SPAPR_TCE_REMOVE",
            Self::EehPeOp(_) => "VFIO_EEH_PE_OP",
            Self::GroupGetStatus(_) => "VFIO_GROUP_GET_STATUS",
            Self::GroupSetContainer(_) => "VFIO_GROUP_SET_CONTAINER",
            Self::GroupUnsetContainer => "VFIO_GROUP_UNSET_CONTAINER",
            Self::DeviceGetInfo(_) => "VFIO_DEVICE_GET_INFO",
            Self::DeviceGetRegionInfo(_) => "VFIO_DEVICE_GET_REGION_INFO",
            Self::DeviceGetIrqInfo(_) => "VFIO_DEVICE_GET_IRQ_INFO",
            Self::DeviceReset => "VFIO_DEVICE_RESET",
        }
    }
}
