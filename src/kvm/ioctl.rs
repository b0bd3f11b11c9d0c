//! The ioctls of KVM: each with its number, structure and raw result.
#![allow(unsafe_code, reason = "the kernel takes addresses of structures")]

use super::seam::TableSpec;
use crate::host::Errno;
use crate::uapi::kvm::{
    CAP_PPC_ENABLE_HCALL, CHECK_EXTENSION, CREATE_DEVICE, CREATE_SPAPR_TCE_64, CreateDevice, CreateSpaprTce64,
    DEV_TYPE_VFIO, DEV_VFIO_GROUP, DEV_VFIO_GROUP_SET_SPAPR_TCE, DeviceAttr, ENABLE_CAP, EnableCap, SET_DEVICE_ATTR,
    VfioSpaprTce,
};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub(super) fn check_extension(vm: &OwnedFd, capability: u32) -> Result<i32, Errno> {
    // SAFETY: this number takes no address, so the kernel touches no memory of ours.
    Errno::result(unsafe { libc::ioctl(vm.as_raw_fd(), CHECK_EXTENSION, libc::c_ulong::from(capability)) })
}

pub(super) fn enable_hcall(vm: &OwnedFd, number: u64) -> Result<(), Errno> {
    let capability = EnableCap { cap: CAP_PPC_ENABLE_HCALL, flags: 0, args: [number, 1, 0, 0], pad: [0; 64] };
    // SAFETY: the kernel reads a structure of that type, which outlives the call.
    Errno::result(unsafe { libc::ioctl(vm.as_raw_fd(), ENABLE_CAP, &raw const capability) }).map(drop)
}

/// `KVM_CREATE_DEVICE` of the VFIO device. The kernel opens the file `O_CLOEXEC`.
pub(super) fn create_device(vm: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut device = CreateDevice { kind: DEV_TYPE_VFIO, ..Default::default() };
    // SAFETY: the kernel reads and writes a structure of that type, which outlives the call.
    Errno::result(unsafe { libc::ioctl(vm.as_raw_fd(), CREATE_DEVICE, &raw mut device) })?;
    let raw = i32::try_from(device.fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just opened this file for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `KVM_CREATE_SPAPR_TCE_64`. The kernel opens the file `O_CLOEXEC`.
pub(super) fn create_table(vm: &OwnedFd, spec: &TableSpec) -> Result<OwnedFd, Errno> {
    let table = CreateSpaprTce64 {
        liobn: spec.liobn.into(),
        page_shift: spec.page.get(),
        flags: 0,
        offset: spec.window.start().0 >> spec.page.get(),
        size: spec.entries(),
    };
    // SAFETY: the kernel reads a structure of that type, which outlives the call.
    let raw = Errno::result(unsafe { libc::ioctl(vm.as_raw_fd(), CREATE_SPAPR_TCE_64, &raw const table) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `KVM_DEV_VFIO_GROUP_ADD` or `_DEL`.
pub(super) fn set_group(device: &OwnedFd, attr: u64, group: &OwnedFd) -> Result<(), Errno> {
    set_attr(device, attr, &group.as_raw_fd())
}

/// `KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE`.
pub(super) fn set_spapr_tce(device: &OwnedFd, group: &OwnedFd, table: &OwnedFd) -> Result<(), Errno> {
    let pair = VfioSpaprTce { groupfd: group.as_raw_fd(), tablefd: table.as_raw_fd() };
    set_attr(device, DEV_VFIO_GROUP_SET_SPAPR_TCE, &pair)
}

/// The value that an attribute of the VFIO device takes.
///
/// # Safety
/// The type must be the one the kernel reads for the attributes it is passed with.
unsafe trait Attribute {}

// SAFETY: a file's number, for ADD and DEL (`kvm_vfio_file_add`, `kvm_vfio_file_del`).
unsafe impl Attribute for i32 {}
// SAFETY: for SET_SPAPR_TCE (`kvm_vfio_file_set_spapr_tce`).
unsafe impl Attribute for VfioSpaprTce {}

fn set_attr<T: Attribute>(device: &OwnedFd, attr: u64, value: &T) -> Result<(), Errno> {
    let addr = std::ptr::from_ref(value).expose_provenance() as u64;
    let attr = DeviceAttr { flags: 0, group: DEV_VFIO_GROUP, attr, addr };
    // SAFETY: the kernel reads a structure of that type, and at its address what the attribute
    // takes; both outlive the call.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), SET_DEVICE_ATTR, &raw const attr) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Iova, IovaRange, PageShift};

    #[test]
    #[cfg_attr(miri, ignore = "makes ioctls")]
    fn every_call_reaches_the_kernel_and_brings_its_errno_back() {
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        let window = IovaRange::new(Iova(0), 1 << 30).unwrap();
        let spec = TableSpec { liobn: 1, window, page: PageShift::P4K };
        assert_eq!(check_extension(&file, 125).err(), Some(Errno::ENOTTY));
        assert_eq!(enable_hcall(&file, 0x20), Err(Errno::ENOTTY));
        assert_eq!(create_device(&file).err(), Some(Errno::ENOTTY));
        assert_eq!(create_table(&file, &spec).err(), Some(Errno::ENOTTY));
        assert_eq!(set_group(&file, 1, &file), Err(Errno::ENOTTY));
        assert_eq!(set_spapr_tce(&file, &file, &file), Err(Errno::ENOTTY));
    }
}
