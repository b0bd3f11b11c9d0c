//! What the kernel can answer to each call instead of success.

use spapr_iommu::host::Errno::{self, *};

/// Answers by call: `drivers/vfio/vfio_iommu_spapr_tce.c` and what it calls, the hypervisor's and
/// the firmware's codes that come through as error numbers, and positive results.
pub(crate) fn failures(call: &str) -> Vec<Result<i32, Errno>> {
    let (errnos, positive): (&[Errno], &[i32]) = match call {
        // Of the hypervisor: H_HARDWARE, H_FUNCTION, H_PRIVILEGE, H_PARAMETER,
        // H_NOT_ENOUGH_RESOURCES; H_BUSY and H_LONG_BUSY come as they are. ENOMEM, EINVAL, ENODEV
        // and EPERM may also be the waiting default window's.
        "VFIO_IOMMU_MAP_DMA" => {
            (&[EPERM, ENOENT, ESRCH, EINTR, ECHRNG, EFAULT, EINVAL, ENXIO, ENOMEM, ENODEV], &[1, 9900])
        }
        "VFIO_IOMMU_UNMAP_DMA" => (&[EPERM, EFAULT, EINVAL, ENXIO, ENOMEM, ENODEV, EINTR, ENOSPC], &[1]),
        // What pinning gives for device and file memory, and pages pinned in a chunk that has a
        // hole.
        "VFIO_IOMMU_SPAPR_REGISTER_MEMORY" => (&[EPERM, EFAULT, EINVAL, EBUSY, ENOMEM, EOPNOTSUPP], &[1, 80, 2 << 20]),
        "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY" => (&[EPERM, EFAULT, EINVAL, ENOENT], &[]),
        // Of OPAL: PARAMETER, BUSY, HARDWARE, UNSUPPORTED.
        "VFIO_IOMMU_SPAPR_TCE_CREATE" => (&[ENXIO, EFAULT, EINVAL, ENOSPC, ENOMEM, EPERM, ENODEV, ENOENT, E2BIG], &[1]),
        "VFIO_IOMMU_SPAPR_TCE_REMOVE" => (&[EPERM, ENXIO, EFAULT, EINVAL], &[]),
        "VFIO_IOMMU_SPAPR_TCE_GET_INFO" => (&[EPERM, ENXIO, EFAULT, EINVAL], &[]),
        // Another version, and no such driver.
        "VFIO_GET_API_VERSION" => (&[EINVAL], &[7]),
        "VFIO_CHECK_EXTENSION" => (&[EINVAL], &[0]),
        "VFIO_SET_IOMMU" => (&[EINVAL, ENODEV, EBUSY, EPERM, ENOMEM], &[]),
        "VFIO_GROUP_GET_STATUS" => (&[EFAULT, EINVAL], &[]),
        "VFIO_GROUP_SET_CONTAINER" => (&[EINVAL, EBADF, EBADFD, EPERM, EBUSY, ENODEV, ENOMEM], &[]),
        "VFIO_GROUP_UNSET_CONTAINER" => (&[EINVAL, EBUSY], &[]),
        "VFIO_DEVICE_GET_INFO" | "VFIO_DEVICE_GET_REGION_INFO" => (&[EFAULT, EINVAL, ENODEV], &[]),
        "VFIO_DEVICE_RESET" => (&[EINVAL, EIO, ENOTTY], &[]),
        other => panic!("no failures are known for {other}: write them down here"),
    };
    errnos.iter().map(|&errno| Err(errno)).chain(positive.iter().map(|&n| Ok(n))).collect()
}
