//! Makes every kernel call of the crate: builds it, traces it and checks its result.
//!
//! One thin function per ioctl. Success is what the kernel means by it: exactly 0, except for the
//! few calls whose result is a value. `VFIO_IOMMU_MAP_DMA`, `_UNMAP_DMA` and `_REGISTER_MEMORY` can
//! also fail with positive results, and `EINTR` from pseries is the hypervisor's H_PARAMETER, so
//! nothing here is ever retried (`drivers/vfio/vfio_iommu_spapr_tce.c`).
//!
//! Each call emits a `tracing` event with target `spapr_iommu::ioctl` and level `DEBUG`, with its
//! arguments, result and duration.

use super::{Call, Errno, Fd, Host};
use crate::addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
use crate::error::ErrorKind;
use crate::permission::Permission;
use crate::uapi::{eeh, spapr, vfio};
use core::fmt;
use std::time::Instant;

/// Target of the events.
pub const TARGET: &str = "spapr_iommu::ioctl";

/// How a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The kernel's error number.
    Errno(Errno),
    /// A positive result where only 0 is success: a page count from REGISTER, 1 from MAP and UNMAP.
    Positive(i32),
}

/// A kernel call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// The call with its arguments.
    pub call: Call,
    /// How it failed.
    pub failure: Failure,
}

impl CallError {
    /// Returns what the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Kernel
    }

    /// Returns a stable name of the cause.
    pub fn code(&self) -> &'static str {
        "call-failed"
    }

    /// Returns the error number, if there was one.
    pub fn errno(&self) -> Option<Errno> {
        match self.failure {
            Failure::Errno(errno) => Some(errno),
            Failure::Positive(_) => None,
        }
    }
}

impl std::error::Error for CallError {}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({}) failed with ", self.call.name(), Arguments(&self.call))?;
        match self.failure {
            Failure::Errno(errno) => write!(f, "{errno:?} ({})", errno.desc()),
            Failure::Positive(n) => write!(f, "the positive result {n}"),
        }
    }
}

/// Displays a call's arguments, addresses and sizes in hex.
struct Arguments<'a>(&'a Call);

impl fmt::Display for Arguments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Call::CheckExtension(n) | Call::SetIommu(n) => write!(f, "{n}"),
            Call::RegisterMemory(a) | Call::UnregisterMemory(a) => write!(f, "vaddr={:#x} size={:#x}", a.vaddr, a.size),
            Call::MapDma(a) => {
                write!(f, "vaddr={:#x} iova={:#x} size={:#x} flags={:#x}", a.vaddr, a.iova, a.size, a.flags)
            }
            Call::UnmapDma(a) => write!(f, "iova={:#x} size={:#x}", a.iova, a.size),
            Call::TceCreate(a) => write!(
                f,
                "page_shift={} window_size={:#x} levels={} start_addr={:#x}",
                a.page_shift, a.window_size, a.levels, a.start_addr
            ),
            Call::TceRemove(a) => write!(f, "start_addr={:#x}", a.start_addr),
            Call::EehPeOp(a) => write!(f, "op={}", a.op),
            Call::GroupSetContainer(fd) => write!(f, "{fd}"),
            Call::TceGetInfo(a) => write!(
                f,
                "start={:#x} size={:#x} pgsizes={:#x} windows={} levels={}",
                a.dma32_window_start,
                a.dma32_window_size,
                a.ddw.pgsizes,
                a.ddw.max_dynamic_windows_supported,
                a.ddw.levels
            ),
            Call::GroupGetStatus(a) => write!(f, "flags={:#x}", a.flags),
            Call::DeviceGetInfo(a) => write!(f, "flags={:#x} regions={}", a.flags, a.num_regions),
            Call::DeviceGetRegionInfo(a) => write!(f, "index={} size={:#x} flags={:#x}", a.index, a.size, a.flags),
            Call::DeviceGetIrqInfo(a) => write!(f, "index={} count={} flags={:#x}", a.index, a.count, a.flags),
            Call::GetApiVersion | Call::Enable | Call::Disable | Call::GroupUnsetContainer | Call::DeviceReset => {
                Ok(())
            }
        }
    }
}

/// Runs a call and traces it; all calls go through here. Returns the raw result, unchecked.
///
/// # Safety
/// As for [`Host::call`].
///
/// ```compile_fail,E0133
/// # use spapr_iommu::host::{Call, Fd, Host, calls};
/// # fn map(host: &dyn Host, container: Fd, args: spapr_iommu::uapi::vfio::DmaMap) {
/// let bytes = vec![0u8; 0x1_0000];
/// let vaddr = bytes.as_ptr().addr() as u64;
/// calls::raw(host, container, &mut Call::MapDma(spapr_iommu::uapi::vfio::DmaMap { vaddr, ..args }));
/// # }
/// ```
#[allow(unsafe_code, reason = "user addresses pass through")]
pub unsafe fn raw(host: &dyn Host, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
    let began = tracing::enabled!(target: TARGET, tracing::Level::DEBUG).then(Instant::now);
    // SAFETY: the caller's promise, passed on.
    let result = unsafe { host.call(fd, call) };
    if let Some(began) = began {
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let name = call.name();
        match result {
            Ok(value) => {
                tracing::debug!(target: TARGET, %fd, args = %Arguments(call), result = value, took_us, "{name}");
            }
            Err(errno) => {
                tracing::debug!(target: TARGET, %fd, args = %Arguments(call), result = ?errno, took_us, "{name}");
            }
        }
    }
    result
}

/// Runs a call of this module's, of which those that hand memory over are `unsafe` themselves.
#[allow(unsafe_code, reason = "all calls go through here")]
fn run(host: &dyn Host, fd: Fd, call: &mut Call) -> Result<i32, CallError> {
    // SAFETY: the call hands over no memory, or what the caller of `register_memory` or `map_dma`
    // has vouched for.
    let result = unsafe { raw(host, fd, call) };
    result.map_err(|errno| CallError { call: *call, failure: Failure::Errno(errno) })
}

/// Runs a call whose only success is 0.
fn run_zero(host: &dyn Host, fd: Fd, call: &mut Call) -> Result<(), CallError> {
    match run(host, fd, call)? {
        0 => Ok(()),
        n => Err(CallError { call: *call, failure: Failure::Positive(n) }),
    }
}

const fn argsz<T>() -> u32 {
    size_of::<T>() as u32
}

/// `VFIO_GET_API_VERSION`.
pub fn api_version(host: &dyn Host, container: Fd) -> Result<i32, CallError> {
    run(host, container, &mut Call::GetApiVersion)
}

/// `VFIO_CHECK_EXTENSION`; 0 means no. The kernel always says yes for sPAPR; only `set_iommu` shows
/// whether it is true.
pub fn check_extension(host: &dyn Host, container: Fd, extension: u32) -> Result<i32, CallError> {
    run(host, container, &mut Call::CheckExtension(extension))
}

/// `VFIO_SET_IOMMU`.
pub fn set_iommu(host: &dyn Host, container: Fd, kind: u32) -> Result<(), CallError> {
    run_zero(host, container, &mut Call::SetIommu(kind))
}

/// `VFIO_IOMMU_SPAPR_TCE_GET_INFO`.
pub fn tce_info(host: &dyn Host, container: Fd) -> Result<spapr::TceInfo, CallError> {
    let mut call = Call::TceGetInfo(spapr::TceInfo { argsz: argsz::<spapr::TceInfo>(), ..Default::default() });
    run_zero(host, container, &mut call)?;
    match call {
        Call::TceGetInfo(info) => Ok(info),
        _ => Ok(Default::default()),
    }
}

/// `VFIO_IOMMU_ENABLE`, v1.
pub fn enable(host: &dyn Host, container: Fd) -> Result<(), CallError> {
    run_zero(host, container, &mut Call::Enable)
}

/// `VFIO_IOMMU_DISABLE`, v1.
pub fn disable(host: &dyn Host, container: Fd) -> Result<(), CallError> {
    run_zero(host, container, &mut Call::Disable)
}

fn register_args(range: UserRange) -> spapr::RegisterMemory {
    spapr::RegisterMemory {
        argsz: argsz::<spapr::RegisterMemory>(),
        flags: 0,
        vaddr: range.start().0,
        size: range.len(),
    }
}

/// `VFIO_IOMMU_SPAPR_REGISTER_MEMORY`.
///
/// # Safety
/// The memory is as [`register_raw`](crate::registry::Registry::register_raw) demands.
#[allow(unsafe_code, reason = "user addresses enter here")]
pub unsafe fn register_memory(host: &dyn Host, container: Fd, range: UserRange) -> Result<(), CallError> {
    run_zero(host, container, &mut Call::RegisterMemory(register_args(range)))
}

/// `VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY`. If a TCE points to the memory, the kernel returns 0 and
/// loses the memory.
pub fn unregister_memory(host: &dyn Host, container: Fd, range: UserRange) -> Result<(), CallError> {
    run_zero(host, container, &mut Call::UnregisterMemory(register_args(range)))
}

/// `VFIO_IOMMU_MAP_DMA`. The kernel checks no bounds: the caller must.
///
/// # Safety
/// The memory is as [`register_raw`](crate::registry::Registry::register_raw) demands.
#[allow(unsafe_code, reason = "user addresses enter here")]
pub unsafe fn map_dma(
    host: &dyn Host,
    container: Fd,
    user: UserAddr,
    iova: IovaRange,
    permission: Permission,
) -> Result<(), CallError> {
    let args = vfio::DmaMap {
        argsz: argsz::<vfio::DmaMap>(),
        flags: permission.bits(),
        vaddr: user.0,
        iova: iova.start().0,
        size: iova.len(),
    };
    run_zero(host, container, &mut Call::MapDma(args))
}

/// `VFIO_IOMMU_UNMAP_DMA`. Kernels before 6.12.112 and 7.2.8 check no bounds: the caller has.
pub fn unmap_dma(host: &dyn Host, container: Fd, iova: IovaRange) -> Result<(), CallError> {
    let args = vfio::DmaUnmap { argsz: argsz::<vfio::DmaUnmap>(), flags: 0, iova: iova.start().0, size: iova.len() };
    run_zero(host, container, &mut Call::UnmapDma(args))
}

/// `VFIO_IOMMU_SPAPR_TCE_CREATE`; returns where the window starts.
pub fn tce_create(host: &dyn Host, container: Fd, page: PageShift, size: u64, levels: u32) -> Result<Iova, CallError> {
    let mut call = Call::TceCreate(spapr::TceCreate {
        argsz: argsz::<spapr::TceCreate>(),
        page_shift: page.get(),
        window_size: size,
        levels,
        ..Default::default()
    });
    run_zero(host, container, &mut call)?;
    match call {
        Call::TceCreate(args) => Ok(Iova(args.start_addr)),
        _ => Ok(Iova(0)),
    }
}

/// `VFIO_IOMMU_SPAPR_TCE_REMOVE`.
pub fn tce_remove(host: &dyn Host, container: Fd, start: Iova) -> Result<(), CallError> {
    let args = spapr::TceRemove { argsz: argsz::<spapr::TceRemove>(), flags: 0, start_addr: start.0 };
    run_zero(host, container, &mut Call::TceRemove(args))
}

/// `VFIO_EEH_PE_OP` without error data; returns the state for [`eeh::op::GET_STATE`], otherwise 0.
pub fn eeh_pe_op(host: &dyn Host, container: Fd, op: u32) -> Result<i32, CallError> {
    // The kernel needs only the 12 bytes up to `op` here; it accepts a larger structure as well.
    let args = eeh::PeOp { argsz: argsz::<eeh::PeOp>(), op, ..Default::default() };
    run(host, container, &mut Call::EehPeOp(args))
}

/// `VFIO_EEH_PE_OP` with [`eeh::op::INJECT_ERR`].
pub fn eeh_inject(host: &dyn Host, container: Fd, err: eeh::PeErr) -> Result<(), CallError> {
    let args = eeh::PeOp { argsz: argsz::<eeh::PeOp>(), op: eeh::op::INJECT_ERR, err, ..Default::default() };
    run_zero(host, container, &mut Call::EehPeOp(args))
}

/// `VFIO_GROUP_GET_STATUS`.
pub fn group_status(host: &dyn Host, group: Fd) -> Result<vfio::GroupStatus, CallError> {
    let mut call =
        Call::GroupGetStatus(vfio::GroupStatus { argsz: argsz::<vfio::GroupStatus>(), ..Default::default() });
    run_zero(host, group, &mut call)?;
    match call {
        Call::GroupGetStatus(status) => Ok(status),
        _ => Ok(Default::default()),
    }
}

/// `VFIO_GROUP_SET_CONTAINER`.
pub fn group_set_container(host: &dyn Host, group: Fd, container: Fd) -> Result<(), CallError> {
    run_zero(host, group, &mut Call::GroupSetContainer(container))
}

/// `VFIO_GROUP_UNSET_CONTAINER`.
pub fn group_unset_container(host: &dyn Host, group: Fd) -> Result<(), CallError> {
    run_zero(host, group, &mut Call::GroupUnsetContainer)
}

/// `VFIO_DEVICE_GET_INFO`.
pub fn device_info(host: &dyn Host, device: Fd) -> Result<vfio::DeviceInfo, CallError> {
    let mut call = Call::DeviceGetInfo(vfio::DeviceInfo { argsz: argsz::<vfio::DeviceInfo>(), ..Default::default() });
    run_zero(host, device, &mut call)?;
    match call {
        Call::DeviceGetInfo(info) => Ok(info),
        _ => Ok(Default::default()),
    }
}

/// `VFIO_DEVICE_GET_REGION_INFO`.
pub fn device_region_info(host: &dyn Host, device: Fd, index: u32) -> Result<vfio::RegionInfo, CallError> {
    let mut call =
        Call::DeviceGetRegionInfo(vfio::RegionInfo { argsz: argsz::<vfio::RegionInfo>(), index, ..Default::default() });
    run_zero(host, device, &mut call)?;
    match call {
        Call::DeviceGetRegionInfo(info) => Ok(info),
        _ => Ok(Default::default()),
    }
}

/// `VFIO_DEVICE_GET_IRQ_INFO`.
pub fn device_irq_info(host: &dyn Host, device: Fd, index: u32) -> Result<vfio::IrqInfo, CallError> {
    let mut call =
        Call::DeviceGetIrqInfo(vfio::IrqInfo { argsz: argsz::<vfio::IrqInfo>(), index, ..Default::default() });
    run_zero(host, device, &mut call)?;
    match call {
        Call::DeviceGetIrqInfo(info) => Ok(info),
        _ => Ok(Default::default()),
    }
}

/// `VFIO_DEVICE_RESET`.
pub fn device_reset(host: &dyn Host, device: Fd) -> Result<(), CallError> {
    run_zero(host, device, &mut Call::DeviceReset)
}
