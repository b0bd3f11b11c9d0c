//! Makes the ioctls themselves: number, structure, raw result.
//!
//! Nothing is retried and nothing is interpreted. `EINTR` from pseries is the hypervisor's
//! H_PARAMETER, and a positive result is passed on: [`calls`](crate::host::calls) decides what it
//! means.
#![allow(unsafe_code, reason = "the kernel takes addresses of structures")]

use super::files::{Files, OpenFile};
use crate::host::{Call, Errno};
use crate::uapi::{Number, eeh, spapr, vfio};
use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A structure the kernel reads and writes.
///
/// # Safety
/// The type must be a `repr(C)` structure of integers: any bytes the kernel writes into it make a
/// value.
unsafe trait Argument {
    fn argsz(&self) -> u32;
}

macro_rules! arguments {
    ($($name:ty),+ $(,)?) => {
        // SAFETY: structures of `uapi`, `repr(C)` and integers only; their layouts are tested
        // there.
        $(unsafe impl Argument for $name {
            fn argsz(&self) -> u32 {
                self.argsz
            }
        })+
    };
}

arguments!(
    spapr::TceInfo,
    spapr::RegisterMemory,
    spapr::TceCreate,
    spapr::TceRemove,
    vfio::DmaMap,
    vfio::DmaUnmap,
    vfio::GroupStatus,
    vfio::DeviceInfo,
    vfio::RegionInfo,
    vfio::IrqInfo,
    eeh::PeOp,
);

/// Runs `call` on `open`; `files` finds the container a group is to join.
pub(super) fn run(files: &Files, open: &OpenFile, call: &mut Call) -> Result<i32, Errno> {
    match call {
        Call::GetApiVersion => by_value(open, vfio::GET_API_VERSION, 0),
        Call::CheckExtension(extension) => by_value(open, vfio::CHECK_EXTENSION, *extension),
        Call::SetIommu(kind) => by_value(open, vfio::SET_IOMMU, *kind),
        Call::TceGetInfo(argument) => by_address(open, spapr::TCE_GET_INFO, argument),
        Call::Enable => by_value(open, vfio::IOMMU_ENABLE, 0),
        Call::Disable => by_value(open, vfio::IOMMU_DISABLE, 0),
        Call::RegisterMemory(argument) => by_address(open, spapr::REGISTER_MEMORY, argument),
        Call::UnregisterMemory(argument) => by_address(open, spapr::UNREGISTER_MEMORY, argument),
        Call::MapDma(argument) => by_address(open, vfio::IOMMU_MAP_DMA, argument),
        Call::UnmapDma(argument) => by_address(open, vfio::IOMMU_UNMAP_DMA, argument),
        Call::TceCreate(argument) => by_address(open, spapr::TCE_CREATE, argument),
        Call::TceRemove(argument) => by_address(open, spapr::TCE_REMOVE, argument),
        Call::EehPeOp(argument) => by_address(open, eeh::PE_OP, argument),
        Call::GroupGetStatus(argument) => by_address(open, vfio::GROUP_GET_STATUS, argument),
        Call::GroupSetContainer(container) => set_container(open, &*files.get(*container)?),
        Call::GroupUnsetContainer => by_value(open, vfio::GROUP_UNSET_CONTAINER, 0),
        Call::DeviceGetInfo(argument) => by_address(open, vfio::DEVICE_GET_INFO, argument),
        Call::DeviceGetRegionInfo(argument) => by_address(open, vfio::DEVICE_GET_REGION_INFO, argument),
        Call::DeviceGetIrqInfo(argument) => by_address(open, vfio::DEVICE_GET_IRQ_INFO, argument),
        Call::DeviceReset => by_value(open, vfio::DEVICE_RESET, 0),
    }
}

/// `VFIO_GROUP_GET_DEVICE_FD`. The kernel opens the file `O_CLOEXEC`.
pub(super) fn device(group: &OpenFile, name: &str) -> Result<OwnedFd, Errno> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: `name` is a NUL-terminated string that outlives the call, and the kernel only reads
    // it.
    let result = unsafe { libc::ioctl(group.file.as_raw_fd(), vfio::GROUP_GET_DEVICE_FD, name.as_ptr()) };
    let raw = Errno::result(result)?;
    // SAFETY: the kernel has just opened this file for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `VFIO_DEVICE_GET_REGION_INFO` with the capabilities that follow the structure.
pub(super) fn region_info(device: &OpenFile, index: u32) -> Result<Vec<u8>, Errno> {
    let mut room = size_of::<vfio::RegionInfo>();
    loop {
        // Words of 64 bits, as the structure is aligned to them.
        let mut words = vec![0u64; room.div_ceil(size_of::<u64>())];
        let len = words.len() * size_of::<u64>();
        let argsz = u32::try_from(len).map_err(|_| Errno::EIO)?;
        words[0] = pair(argsz, 0);
        words[1] = pair(index, 0);
        // SAFETY: the kernel reads and writes at most `argsz` bytes, which is all of `words`; any
        // bytes are words.
        Errno::result(unsafe {
            libc::ioctl(device.file.as_raw_fd(), vfio::DEVICE_GET_REGION_INFO, words.as_mut_ptr())
        })?;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        match bytes.first_chunk().map(|argsz| u32::from_ne_bytes(*argsz) as usize) {
            Some(needed) if needed > len && needed <= MAX_REGION_INFO => room = needed,
            Some(needed) if needed > len => return Err(Errno::EIO),
            _ => return Ok(bytes),
        }
    }
}

/// Largest description of a region, in bytes, that any kernel gives.
const MAX_REGION_INFO: usize = 1 << 16;

/// Returns two words of 32 bits in one of 64, in the order of memory.
fn pair(first: u32, second: u32) -> u64 {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

/// `VFIO_DEVICE_SET_IRQS`.
pub(super) fn set_irqs(
    device: &OpenFile,
    set: vfio::IrqSet,
    eventfds: &[Option<BorrowedFd<'_>>],
) -> Result<i32, Errno> {
    // The structure and its data are 32-bit words without gaps.
    let head = size_of::<vfio::IrqSet>() / size_of::<u32>();
    let argsz = u32::try_from((head + eventfds.len()) * size_of::<u32>()).map_err(|_| Errno::EINVAL)?;
    let mut words = vec![argsz, set.flags, set.index, set.start, set.count];
    // An eventfd is an `int`; none is -1.
    words.extend(eventfds.iter().map(|fd| fd.map_or(-1, |fd| fd.as_raw_fd()) as u32));
    // SAFETY: the kernel only reads, and no more than `argsz` bytes, which is all of `words`.
    Errno::result(unsafe { libc::ioctl(device.file.as_raw_fd(), vfio::DEVICE_SET_IRQS, words.as_ptr()) })
}

fn by_value(open: &OpenFile, number: Number, value: u32) -> Result<i32, Errno> {
    // SAFETY: this number takes no address, so the kernel touches no memory of ours.
    Errno::result(unsafe { libc::ioctl(open.file.as_raw_fd(), number, libc::c_ulong::from(value)) })
}

fn by_address<T: Argument>(open: &OpenFile, number: Number, argument: &mut T) -> Result<i32, Errno> {
    // The kernel trusts `argsz`, and writes capabilities after the structure where it promises room
    // for them.
    if usize::try_from(argument.argsz()).is_ok_and(|argsz| argsz > size_of::<T>()) {
        return Err(Errno::EINVAL);
    }
    let address: *mut T = argument;
    // SAFETY: the kernel reads and writes at most `argsz` bytes, or the fixed part of the
    // structure, at `address`; it is a live, exclusive structure of at least that size, and any
    // bytes are a value of it.
    Errno::result(unsafe { libc::ioctl(open.file.as_raw_fd(), number, address) })
}

fn set_container(group: &OpenFile, container: &OpenFile) -> Result<i32, Errno> {
    let raw: libc::c_int = container.file.as_raw_fd();
    // SAFETY: the kernel reads an `int` at the address of one.
    Errno::result(unsafe { libc::ioctl(group.file.as_raw_fd(), vfio::GROUP_SET_CONTAINER, &raw) })
}

#[cfg(test)]
mod tests {
    use super::super::files::Kind;
    use super::*;
    use crate::host::Fd;
    use std::fs::File;

    fn regular() -> OpenFile {
        OpenFile::new(tempfile::tempfile().unwrap().into(), Kind::Container)
    }

    #[test]
    #[cfg_attr(miri, ignore = "makes ioctls")]
    fn every_call_reaches_the_kernel_and_brings_its_errno_back() {
        let (files, open) = (Files::default(), regular());
        let container = files.insert(tempfile::tempfile().unwrap().into(), Kind::Container).unwrap();
        let calls = [
            Call::GetApiVersion,
            Call::CheckExtension(7),
            Call::SetIommu(7),
            Call::TceGetInfo(Default::default()),
            Call::Enable,
            Call::Disable,
            Call::RegisterMemory(Default::default()),
            Call::UnregisterMemory(Default::default()),
            Call::MapDma(Default::default()),
            Call::UnmapDma(Default::default()),
            Call::TceCreate(Default::default()),
            Call::TceRemove(Default::default()),
            Call::EehPeOp(Default::default()),
            Call::GroupGetStatus(Default::default()),
            Call::GroupSetContainer(container),
            Call::GroupUnsetContainer,
            Call::DeviceGetInfo(Default::default()),
            Call::DeviceGetRegionInfo(Default::default()),
            Call::DeviceGetIrqInfo(Default::default()),
            Call::DeviceReset,
        ];
        for mut call in calls {
            assert_eq!(run(&files, &open, &mut call), Err(Errno::ENOTTY), "{}", call.name());
        }
        assert_eq!(region_info(&open, 0), Err(Errno::ENOTTY));
        assert_eq!(set_irqs(&open, Default::default(), &[None]), Err(Errno::ENOTTY));
        assert_eq!(device(&open, "0000:00:00.0").unwrap_err(), Errno::ENOTTY);
    }

    #[test]
    fn a_structure_that_promises_more_room_than_it_has_is_refused() {
        let mut info = vfio::RegionInfo { argsz: size_of::<vfio::RegionInfo>() as u32 + 1, ..Default::default() };
        assert_eq!(by_address(&regular(), vfio::DEVICE_GET_REGION_INFO, &mut info), Err(Errno::EINVAL));
    }

    #[test]
    fn a_container_that_is_not_open_and_a_name_with_nul_are_refused() {
        let mut call = Call::GroupSetContainer(Fd(5));
        assert_eq!(run(&Files::default(), &regular(), &mut call), Err(Errno::EBADF));
        assert_eq!(device(&regular(), "0000:00\0:00.0").unwrap_err(), Errno::EINVAL);
    }

    #[test]
    #[cfg_attr(miri, ignore = "makes ioctls")]
    fn a_positive_result_is_passed_on() {
        // NS_GET_NSTYPE is the rare ioctl any process may run whose result is a value:
        // CLONE_NEWUSER. User-mode emulators know only a list of ioctls and answer ENOTTY; both are
        // the kernel's raw answer, 0 is not.
        let namespace = OpenFile::new(File::open("/proc/self/ns/user").unwrap().into(), Kind::Container);
        let result = by_value(&namespace, nix::request_code_none!(0xb7, 3), 0);
        assert!(matches!(result, Ok(libc::CLONE_NEWUSER) | Err(Errno::ENOTTY)), "{result:?}");
    }
}
