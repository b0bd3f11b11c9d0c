//! The calls of the kernel's interface: as values, and one thin function for each, which builds it,
//! traces it and checks its result.
//!
//! Success is what the kernel means by it: exactly 0, except for the few calls whose result is a
//! value. `VFIO_IOMMU_MAP_DMA`, `_UNMAP_DMA` and `_REGISTER_MEMORY` can also fail with positive
//! results, and `EINTR` from pseries is the hypervisor's H_PARAMETER, so nothing here is ever
//! retried (`drivers/vfio/vfio_iommu_spapr_tce.c`).
//!
//! Each call emits a `tracing` event with target `spapr_iommu::ioctl` and level `DEBUG`, with its
//! arguments, result and duration.

use super::{Errno, Fd, Host, counts};
use crate::addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
use crate::error::ErrorKind;
use crate::pci::Group;
use crate::permission::Permission;
use crate::uapi::{eeh, spapr, vfio};
use core::fmt;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// Target of the events.
pub const TARGET: &str = "spapr_iommu::ioctl";

/// A file to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node<'a> {
    /// `/dev/vfio/vfio`.
    Container,
    /// `/dev/vfio/N`.
    Group(Group),
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

/// A call as it was made: a [`Call`], or `VFIO_DEVICE_SET_IRQS`, whose eventfds follow its
/// structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A call whose argument is one value or structure.
    Call(Call),
    /// `VFIO_DEVICE_SET_IRQS` on a device.
    SetIrqs(vfio::IrqSet),
}

impl Request {
    /// Returns the call's name in the kernel's headers.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Call(call) => call.name(),
            Self::SetIrqs(_) => counts::SET_IRQS.name(),
        }
    }
}

impl From<Call> for Request {
    fn from(call: Call) -> Self {
        Self::Call(call)
    }
}

impl From<vfio::IrqSet> for Request {
    fn from(set: vfio::IrqSet) -> Self {
        Self::SetIrqs(set)
    }
}

/// Displays a call's name and arguments, addresses and sizes in hex.
impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.name(), Arguments(self))
    }
}

/// How a call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Failure {
    /// The kernel's error number.
    Errno(Errno),
    /// A positive result where only 0 is success: a page count from REGISTER, 1 from MAP and UNMAP,
    /// from SET_IRQS how many MSI or MSI-X vectors are available, fewer than requested.
    Positive(i32),
    /// The host, an implementation of [`Host`] outside this crate, put another call in the place of
    /// the one it was given.
    OtherCall,
}

/// A kernel call that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallError {
    /// The call with its arguments.
    pub call: Request,
    /// How it failed.
    pub failure: Failure,
}

impl CallError {
    /// Creates the error of a call.
    pub fn new(call: impl Into<Request>, failure: Failure) -> Self {
        Self { call: call.into(), failure }
    }

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
            Failure::Positive(_) | Failure::OtherCall => None,
        }
    }
}

impl std::error::Error for CallError {}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed with ", self.call)?;
        match self.failure {
            Failure::Errno(errno) => write!(f, "{errno:?} ({})", errno.desc()),
            Failure::Positive(n) => write!(f, "the positive result {n}"),
            Failure::OtherCall => f.write_str("the answer to another call: the implementation of `Host` is wrong"),
        }
    }
}

/// Displays a call's arguments.
struct Arguments<'a>(&'a Request);

impl fmt::Display for Arguments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let call = match self.0 {
            Request::Call(call) => call,
            Request::SetIrqs(vfio::IrqSet { flags, index, start, count, .. }) => {
                return write!(f, "index={index} start={start} count={count} flags={flags:#x}");
            }
        };
        match call {
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

/// Runs a call and traces it. Returns the raw result, unchecked.
///
/// All calls go through here, except `VFIO_DEVICE_SET_IRQS`, which is traced alike.
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
    let began = began();
    // SAFETY: the caller's promise, passed on.
    let result = unsafe { host.call(fd, call) };
    counts::of(call).count(result.is_err());
    // Nothing is copied unless it is traced: maps make this call.
    if let Some(began) = began {
        trace(began, fd, (*call).into(), result);
    }
    result
}

/// Returns the time if calls are traced.
#[inline]
fn began() -> Option<Instant> {
    tracing::enabled!(target: TARGET, tracing::Level::DEBUG).then(Instant::now)
}

#[cold]
fn trace(began: Instant, fd: Fd, call: Request, result: Result<i32, Errno>) {
    let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let name = call.name();
    match result {
        Ok(value) => {
            tracing::debug!(target: TARGET, %fd, args = %Arguments(&call), result = value, took_us, "{name}");
        }
        Err(errno) => {
            tracing::debug!(target: TARGET, %fd, args = %Arguments(&call), result = ?errno, took_us, "{name}");
        }
    }
}

/// Runs a call of this module; those that hand over memory are `unsafe` themselves.
#[allow(unsafe_code, reason = "all calls go through here")]
fn run(host: &dyn Host, fd: Fd, call: &mut Call) -> Result<i32, CallError> {
    // SAFETY: the call hands over no memory, or the caller of `register_memory` or `map_dma` has
    // vouched for it.
    let result = unsafe { raw(host, fd, call) };
    result.map_err(|errno| CallError::new(*call, Failure::Errno(errno)))
}

/// Runs a call whose only success is 0.
fn run_zero(host: &dyn Host, fd: Fd, call: &mut Call) -> Result<(), CallError> {
    match run(host, fd, call)? {
        0 => Ok(()),
        n => Err(CallError::new(*call, Failure::Positive(n))),
    }
}

/// A structure in which the kernel answers a call.
trait Answer: Sized {
    /// Makes the call that asks for it.
    fn into_call(self) -> Call;

    /// Takes it out of the call; `None` if that is another.
    fn from_call(call: Call) -> Option<Self>;
}

macro_rules! answers {
    ($($variant:ident($argument:ty)),+ $(,)?) => {
        $(impl Answer for $argument {
            fn into_call(self) -> Call {
                Call::$variant(self)
            }

            fn from_call(call: Call) -> Option<Self> {
                if let Call::$variant(argument) = call { Some(argument) } else { None }
            }
        })+
    };
}

answers!(
    TceGetInfo(spapr::TceInfo),
    TceCreate(spapr::TceCreate),
    GroupGetStatus(vfio::GroupStatus),
    DeviceGetInfo(vfio::DeviceInfo),
    DeviceGetRegionInfo(vfio::RegionInfo),
    DeviceGetIrqInfo(vfio::IrqInfo),
);

/// Runs a call whose only success is 0. Returns the structure the kernel answered in.
fn ask<A: Answer>(host: &dyn Host, fd: Fd, argument: A) -> Result<A, CallError> {
    let asked = argument.into_call();
    let mut call = asked;
    run_zero(host, fd, &mut call)?;
    A::from_call(call).ok_or_else(|| CallError::new(asked, Failure::OtherCall))
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
    ask(host, container, spapr::TceInfo { argsz: argsz::<spapr::TceInfo>(), ..Default::default() })
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

/// `VFIO_IOMMU_UNMAP_DMA`. Kernels before 6.12.112 and 7.2.8 check no bounds: the caller must.
pub fn unmap_dma(host: &dyn Host, container: Fd, iova: IovaRange) -> Result<(), CallError> {
    let args = vfio::DmaUnmap { argsz: argsz::<vfio::DmaUnmap>(), flags: 0, iova: iova.start().0, size: iova.len() };
    run_zero(host, container, &mut Call::UnmapDma(args))
}

/// `VFIO_IOMMU_SPAPR_TCE_CREATE`; returns where the window starts.
pub fn tce_create(host: &dyn Host, container: Fd, page: PageShift, size: u64, levels: u32) -> Result<Iova, CallError> {
    let args = spapr::TceCreate {
        argsz: argsz::<spapr::TceCreate>(),
        page_shift: page.get(),
        window_size: size,
        levels,
        ..Default::default()
    };
    ask(host, container, args).map(|created| Iova(created.start_addr))
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
    ask(host, group, vfio::GroupStatus { argsz: argsz::<vfio::GroupStatus>(), ..Default::default() })
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
    ask(host, device, vfio::DeviceInfo { argsz: argsz::<vfio::DeviceInfo>(), ..Default::default() })
}

/// `VFIO_DEVICE_GET_REGION_INFO`.
pub fn device_region_info(host: &dyn Host, device: Fd, index: u32) -> Result<vfio::RegionInfo, CallError> {
    ask(host, device, vfio::RegionInfo { argsz: argsz::<vfio::RegionInfo>(), index, ..Default::default() })
}

/// `VFIO_DEVICE_GET_IRQ_INFO`.
pub fn device_irq_info(host: &dyn Host, device: Fd, index: u32) -> Result<vfio::IrqInfo, CallError> {
    ask(host, device, vfio::IrqInfo { argsz: argsz::<vfio::IrqInfo>(), index, ..Default::default() })
}

/// `VFIO_DEVICE_RESET`.
pub fn device_reset(host: &dyn Host, device: Fd) -> Result<(), CallError> {
    run_zero(host, device, &mut Call::DeviceReset)
}

/// Runs `VFIO_DEVICE_SET_IRQS` and traces it; its only success is 0.
fn set_irqs(
    host: &dyn Host,
    device: Fd,
    set: vfio::IrqSet,
    eventfds: &[Option<BorrowedFd<'_>>],
) -> Result<(), CallError> {
    let began = began();
    let result = host.set_irqs(device, set, eventfds);
    counts::SET_IRQS.count(result.is_err());
    if let Some(began) = began {
        trace(began, device, set.into(), result);
    }
    match result {
        Ok(0) => Ok(()),
        Ok(n) => Err(CallError::new(set, Failure::Positive(n))),
        Err(errno) => Err(CallError::new(set, Failure::Errno(errno))),
    }
}

/// `VFIO_DEVICE_SET_IRQS`: enables interrupts 0 to `eventfds.len() - 1` of an index, each with its
/// eventfd.
///
/// All in one call: kernels on POWER cannot add vectors later.
pub fn enable_irqs(host: &dyn Host, device: Fd, index: u32, eventfds: &[BorrowedFd<'_>]) -> Result<(), CallError> {
    let flags = vfio::IRQ_SET_DATA_EVENTFD | vfio::IRQ_SET_ACTION_TRIGGER;
    // No device has that many: the kernel refuses it.
    let count = u32::try_from(eventfds.len()).unwrap_or(u32::MAX);
    let eventfds: Vec<_> = eventfds.iter().copied().map(Some).collect();
    set_irqs(host, device, vfio::IrqSet { flags, index, count, ..Default::default() }, &eventfds)
}

/// `VFIO_DEVICE_SET_IRQS`: disables all interrupts of an index.
pub fn disable_irqs(host: &dyn Host, device: Fd, index: u32) -> Result<(), CallError> {
    let flags = vfio::IRQ_SET_DATA_NONE | vfio::IRQ_SET_ACTION_TRIGGER;
    set_irqs(host, device, vfio::IrqSet { flags, index, ..Default::default() }, &[])
}

/// `VFIO_DEVICE_SET_IRQS`: has the kernel unmask the first interrupt of an index whenever `eventfd`
/// is signalled (`vfio_pci_intx_unmask_handler`).
pub fn unmask_irq_by(host: &dyn Host, device: Fd, index: u32, eventfd: BorrowedFd<'_>) -> Result<(), CallError> {
    let flags = vfio::IRQ_SET_DATA_EVENTFD | vfio::IRQ_SET_ACTION_UNMASK;
    set_irqs(host, device, vfio::IrqSet { flags, index, count: 1, ..Default::default() }, &[Some(eventfd)])
}

/// `VFIO_DEVICE_SET_IRQS`: unmasks the first interrupt of an index: of INTx, which masks itself
/// when it fires.
pub fn unmask_irq(host: &dyn Host, device: Fd, index: u32) -> Result<(), CallError> {
    let flags = vfio::IRQ_SET_DATA_NONE | vfio::IRQ_SET_ACTION_UNMASK;
    set_irqs(host, device, vfio::IrqSet { flags, index, count: 1, ..Default::default() }, &[])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Node, Wrapper};
    use crate::model::Model;

    /// Answers each call with another one.
    #[derive(Debug)]
    struct Swapping(Model);

    impl Wrapper for Swapping {
        type Inner = Model;

        fn inner(&self) -> &Model {
            &self.0
        }

        #[allow(unsafe_code, reason = "the trait has it so")]
        unsafe fn wrapped_call(&self, _fd: Fd, call: &mut Call) -> Result<i32, Errno> {
            *call = Call::GetApiVersion;
            Ok(0)
        }
    }

    #[test]
    fn an_answer_to_another_call_is_an_error() {
        let host = Swapping(Model::new("powernv9".parse().unwrap()));
        let container = host.open(Node::Container).unwrap();
        let error = tce_create(&host, container, PageShift::P4K, 1 << 30, 1).unwrap_err();
        assert_eq!(error.failure, Failure::OtherCall);
        assert!(error.to_string().starts_with("VFIO_IOMMU_SPAPR_TCE_CREATE("), "{error}");
        let failure = |result: Result<(), CallError>| result.unwrap_err().failure;
        assert_eq!(failure(tce_info(&host, container).map(drop)), Failure::OtherCall);
        assert_eq!(failure(group_status(&host, container).map(drop)), Failure::OtherCall);
        assert_eq!(failure(device_info(&host, container).map(drop)), Failure::OtherCall);
        assert_eq!(failure(device_region_info(&host, container, 0).map(drop)), Failure::OtherCall);
        assert_eq!(failure(device_irq_info(&host, container, 0).map(drop)), Failure::OtherCall);
    }
}
