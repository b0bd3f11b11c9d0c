//! Checks numbers against `linux-raw-sys` and layouts against `vfio-bindings`, on the architecture
//! the tests run on.

use super::{eeh, spapr, vfio};
use core::mem::{align_of, offset_of, size_of};
use linux_raw_sys::ioctl as raw;
use vfio_bindings::bindings::vfio as header;

#[test]
fn numbers_are_the_targets() {
    let pairs = [
        (vfio::GET_API_VERSION, raw::VFIO_GET_API_VERSION),
        (vfio::CHECK_EXTENSION, raw::VFIO_CHECK_EXTENSION),
        (vfio::SET_IOMMU, raw::VFIO_SET_IOMMU),
        (vfio::GROUP_GET_STATUS, raw::VFIO_GROUP_GET_STATUS),
        (vfio::GROUP_SET_CONTAINER, raw::VFIO_GROUP_SET_CONTAINER),
        (vfio::GROUP_UNSET_CONTAINER, raw::VFIO_GROUP_UNSET_CONTAINER),
        (vfio::GROUP_GET_DEVICE_FD, raw::VFIO_GROUP_GET_DEVICE_FD),
        (vfio::DEVICE_GET_INFO, raw::VFIO_DEVICE_GET_INFO),
        (vfio::DEVICE_GET_REGION_INFO, raw::VFIO_DEVICE_GET_REGION_INFO),
        (vfio::DEVICE_GET_IRQ_INFO, raw::VFIO_DEVICE_GET_IRQ_INFO),
        (vfio::DEVICE_SET_IRQS, raw::VFIO_DEVICE_SET_IRQS),
        (vfio::DEVICE_RESET, raw::VFIO_DEVICE_RESET),
        (vfio::IOMMU_MAP_DMA, raw::VFIO_IOMMU_MAP_DMA),
        (vfio::IOMMU_UNMAP_DMA, raw::VFIO_IOMMU_UNMAP_DMA),
        (vfio::IOMMU_ENABLE, raw::VFIO_IOMMU_ENABLE),
        (vfio::IOMMU_DISABLE, raw::VFIO_IOMMU_DISABLE),
        (spapr::TCE_GET_INFO, raw::VFIO_IOMMU_SPAPR_TCE_GET_INFO),
        (spapr::REGISTER_MEMORY, raw::VFIO_IOMMU_SPAPR_REGISTER_MEMORY),
        (spapr::UNREGISTER_MEMORY, raw::VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY),
        (spapr::TCE_CREATE, raw::VFIO_IOMMU_SPAPR_TCE_CREATE),
        (spapr::TCE_REMOVE, raw::VFIO_IOMMU_SPAPR_TCE_REMOVE),
        (eeh::PE_OP, raw::VFIO_EEH_PE_OP),
    ];
    for (ours, theirs) in pairs {
        assert_eq!(ours, u64::from(theirs), "{ours:#x}");
    }
}

#[test]
fn power_sets_bit_29() {
    let expected = if cfg!(target_arch = "powerpc64") { 0x2000_3b70 } else { 0x3b70 };
    assert_eq!(spapr::TCE_GET_INFO, expected);
}

#[test]
fn numbers_of_interrupts_are_the_kernels() {
    let pairs = [
        (vfio::PCI_INTX_IRQ_INDEX, header::VFIO_PCI_INTX_IRQ_INDEX),
        (vfio::PCI_MSI_IRQ_INDEX, header::VFIO_PCI_MSI_IRQ_INDEX),
        (vfio::PCI_MSIX_IRQ_INDEX, header::VFIO_PCI_MSIX_IRQ_INDEX),
        (vfio::PCI_ERR_IRQ_INDEX, header::VFIO_PCI_ERR_IRQ_INDEX),
        (vfio::PCI_REQ_IRQ_INDEX, header::VFIO_PCI_REQ_IRQ_INDEX),
        (vfio::IRQ_INFO_EVENTFD, header::VFIO_IRQ_INFO_EVENTFD),
        (vfio::IRQ_INFO_MASKABLE, header::VFIO_IRQ_INFO_MASKABLE),
        (vfio::IRQ_INFO_AUTOMASKED, header::VFIO_IRQ_INFO_AUTOMASKED),
        (vfio::IRQ_INFO_NORESIZE, header::VFIO_IRQ_INFO_NORESIZE),
        (vfio::IRQ_SET_DATA_NONE, header::VFIO_IRQ_SET_DATA_NONE),
        (vfio::IRQ_SET_DATA_BOOL, header::VFIO_IRQ_SET_DATA_BOOL),
        (vfio::IRQ_SET_DATA_EVENTFD, header::VFIO_IRQ_SET_DATA_EVENTFD),
        (vfio::IRQ_SET_ACTION_MASK, header::VFIO_IRQ_SET_ACTION_MASK),
        (vfio::IRQ_SET_ACTION_UNMASK, header::VFIO_IRQ_SET_ACTION_UNMASK),
        (vfio::IRQ_SET_ACTION_TRIGGER, header::VFIO_IRQ_SET_ACTION_TRIGGER),
    ];
    for (ours, theirs) in pairs {
        assert_eq!(ours, theirs);
    }
}

macro_rules! same_layout {
    ($ours:ty, $theirs:ty, $($field:ident = $($their_field:ident).+),+ $(,)?) => {
        assert_eq!(size_of::<$ours>(), size_of::<$theirs>(), stringify!($theirs));
        assert_eq!(align_of::<$ours>(), align_of::<$theirs>(), stringify!($theirs));
        $(assert_eq!(offset_of!($ours, $field), offset_of!($theirs, $($their_field).+), stringify!($field));)+
    };
}

#[test]
fn layouts_are_the_kernels() {
    same_layout!(vfio::GroupStatus, header::vfio_group_status, argsz = argsz, flags = flags);
    same_layout!(
        vfio::DeviceInfo,
        header::vfio_device_info,
        argsz = argsz,
        flags = flags,
        num_regions = num_regions,
        num_irqs = num_irqs,
        cap_offset = cap_offset,
        pad = pad,
    );
    same_layout!(
        vfio::RegionInfo,
        header::vfio_region_info,
        argsz = argsz,
        flags = flags,
        index = index,
        cap_offset = cap_offset,
        size = size,
        offset = offset,
    );
    same_layout!(vfio::IrqInfo, header::vfio_irq_info, argsz = argsz, flags = flags, index = index, count = count,);
    same_layout!(
        vfio::IrqSet,
        header::vfio_irq_set,
        argsz = argsz,
        flags = flags,
        index = index,
        start = start,
        count = count,
    );
    same_layout!(
        vfio::DmaMap,
        header::vfio_iommu_type1_dma_map,
        argsz = argsz,
        flags = flags,
        vaddr = vaddr,
        iova = iova,
        size = size,
    );
    same_layout!(
        vfio::DmaUnmap,
        header::vfio_iommu_type1_dma_unmap,
        argsz = argsz,
        flags = flags,
        iova = iova,
        size = size,
    );
    same_layout!(
        spapr::TceDdwInfo,
        header::vfio_iommu_spapr_tce_ddw_info,
        pgsizes = pgsizes,
        max_dynamic_windows_supported = max_dynamic_windows_supported,
        levels = levels,
    );
    same_layout!(
        spapr::TceInfo,
        header::vfio_iommu_spapr_tce_info,
        argsz = argsz,
        flags = flags,
        dma32_window_start = dma32_window_start,
        dma32_window_size = dma32_window_size,
        ddw = ddw,
    );
    same_layout!(
        spapr::RegisterMemory,
        header::vfio_iommu_spapr_register_memory,
        argsz = argsz,
        flags = flags,
        vaddr = vaddr,
        size = size,
    );
    same_layout!(
        spapr::TceCreate,
        header::vfio_iommu_spapr_tce_create,
        argsz = argsz,
        flags = flags,
        page_shift = page_shift,
        resv1 = __resv1,
        window_size = window_size,
        levels = levels,
        resv2 = __resv2,
        start_addr = start_addr,
    );
    same_layout!(
        spapr::TceRemove,
        header::vfio_iommu_spapr_tce_remove,
        argsz = argsz,
        flags = flags,
        start_addr = start_addr,
    );
    same_layout!(eeh::PeErr, header::vfio_eeh_pe_err, kind = type_, func = func, addr = addr, mask = mask,);
    same_layout!(eeh::PeOp, header::vfio_eeh_pe_op, argsz = argsz, flags = flags, op = op);
    assert_eq!(offset_of!(eeh::PeOp, err), 16);
}
