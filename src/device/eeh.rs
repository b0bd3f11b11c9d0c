//! EEH: POWER's error handling when a device or its bus misbehaves.
//!
//! The hardware freezes the PE: loads return ones, stores are lost, and DMA is stopped until the PE
//! is recovered. A read of a [`Bar`](crate::device::Bar) that returns all ones checks for it;
//! [`Eeh::recover`] gets the device going again, in the one order that is safe. What a frozen
//! device was doing is lost, so set it up again afterwards. Mappings stay as they are.
//!
//! A PE belongs to a group, but the kernel's call acts on all groups of a container. So a device
//! whose group shares its container
//! ([`AddressSpace::attach_beside`](crate::space::AddressSpace::attach_beside)) is refused.

use crate::device::{AccessError, DeviceError, OpenDevice};
use crate::host::calls::{self, CallError};
use crate::host::{Errno, Fd};
use crate::space;
use crate::uapi::eeh::{PeErr, op, state};
use core::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a PE may be unavailable while the firmware works on it.
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The state of a PE (`VFIO_EEH_PE_GET_STATE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeState {
    /// The PE works.
    Normal,
    /// The PE is held in reset.
    Reset,
    /// Loads, stores and DMA are stopped.
    Stopped,
    /// DMA is stopped.
    StoppedDma,
    /// The PE is not available: the firmware works on it, or has given up on it.
    Unavailable,
}

impl fmt::Display for PeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::Reset => "in reset",
            Self::Stopped => "frozen",
            Self::StoppedDma => "frozen for DMA",
            Self::Unavailable => "unavailable",
        })
    }
}

/// Why nothing was done to a PE, or why it does not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
pub enum EehError {
    /// The group has no PE with EEH; emulated devices of pseries have none.
    #[error("group {group} has no PE with EEH: there is nothing to recover, use `Device::reset`")]
    NoPe { group: u32 },
    /// The container has other groups, which the call would also act on.
    #[error(
        "group {group} shares its container with {others:?}, and EEH acts on all of it: attach the group by itself"
    )]
    Shared { group: u32, others: Vec<u32> },
    /// The kernel reports an unknown state.
    #[error("the PE of group {group} is in state {state}, which is none that is known")]
    UnknownState { group: u32, state: i32 },
    /// The PE did not become available in time.
    #[error("the PE of group {group} was unavailable for {} s: the firmware may have given the device up", waited.as_secs())]
    Unavailable { group: u32, waited: Duration },
    /// The PE was reset but still does not work.
    #[error("the PE of group {group} was reset and is {state}: the device fails, drop it")]
    NotRecovered { group: u32, state: PeState },
    /// The device that answers after the reset is not the one from before.
    #[error("device {device} was {was:x?} before the reset and is {now:x?}")]
    OtherDevice { device: Arc<str>, was: (u16, u16), now: (u16, u16) },
    /// The platform does not inject such an error.
    #[error("the platform does not inject this error into group {group}: {errno}")]
    NotInjected { group: u32, errno: Errno },
    /// DMA or interrupts of the device could not be stopped.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device does not answer.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// An error to inject, with the numbers of the kernel's `EEH_ERR_TYPE_*` and `EEH_ERR_FUNC_*`
/// (`asm/eeh.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// A 64-bit error instead of a 32-bit one.
    pub wide: bool,
    /// Kind of error: 0 and 1 a load of memory, by address and by data; 4 and 5 a load of the
    /// configuration space; 6 and 7 a store to memory, 10 and 11 to the configuration space; others
    /// up to 19 are I/O ports and DMA.
    pub function: u32,
    /// Bus address that is to fail.
    pub address: u64,
    /// Bits of the address that count.
    pub mask: u64,
}

/// Error handling of one device's PE.
#[derive(Debug)]
pub struct Eeh<'a> {
    opened: &'a OpenDevice,
    id: (u16, u16),
}

/// Returns the state of a device's PE.
fn state(device: &space::Device) -> Result<PeState, EehError> {
    container(device)?;
    any_state(device)
}

/// Returns the state of a device's PE; if the container has several groups, the state of the first
/// PE that is not normal.
pub(crate) fn any_state(device: &space::Device) -> Result<PeState, EehError> {
    let group = device.group();
    match run(device, device.container().0, op::GET_STATE)? {
        state::NORMAL => Ok(PeState::Normal),
        state::RESET => Ok(PeState::Reset),
        state::STOPPED => Ok(PeState::Stopped),
        state::STOPPED_DMA => Ok(PeState::StoppedDma),
        state::UNAVAIL => Ok(PeState::Unavailable),
        state => Err(EehError::UnknownState { group, state }),
    }
}

fn container(device: &space::Device) -> Result<Fd, EehError> {
    let (fd, others) = device.container();
    if others.is_empty() { Ok(fd) } else { Err(EehError::Shared { group: device.group(), others }) }
}

fn operate(device: &space::Device, op: u32) -> Result<i32, EehError> {
    run(device, container(device)?, op)
}

fn run(device: &space::Device, container: Fd, op: u32) -> Result<i32, EehError> {
    let result = calls::eeh_pe_op(device.host().as_ref(), container, op);
    result.map_err(|error| no_pe(device, &error).unwrap_or(error.into()))
}

fn no_pe(device: &space::Device, error: &CallError) -> Option<EehError> {
    (error.errno() == Some(Errno::ENODEV)).then(|| EehError::NoPe { group: device.group() })
}

impl<'a> Eeh<'a> {
    pub(crate) fn new(opened: &'a OpenDevice, id: (u16, u16)) -> Self {
        Self { opened, id }
    }

    /// Returns the state of the PE. The firmware may take a while to answer.
    pub fn state(&self) -> Result<PeState, EehError> {
        state(&self.opened.device)
    }

    /// Lets loads and stores through again, to inspect a frozen device; DMA stays stopped. The
    /// device keeps its state: [`Self::recover`] resets it.
    pub fn unfreeze_io(&self) -> Result<(), EehError> {
        operate(&self.opened.device, op::UNFREEZE_IO)?;
        // Writes to the command register were lost in the meantime.
        Ok(self.opened.restore()?)
    }

    /// Lets DMA through again, after [`Self::unfreeze_io`]: the device continues where it was
    /// stopped, unless [`Device::stop_dma`](crate::device::Device::stop_dma) was called in between.
    pub fn unfreeze_dma(&self) -> Result<(), EehError> {
        operate(&self.opened.device, op::UNFREEZE_DMA).map(drop)
    }

    /// Gets a frozen device going again: disables interrupts, stops DMA, resets and configures the
    /// PE, and restores BARs. The device is then as after power-on and off the bus: enable
    /// interrupts, set it up, and start DMA.
    ///
    /// Takes seconds. Everything that was enabled or running stays off even if it fails. Other
    /// devices of the group are in the same PE and are reset with it: their drivers must be told.
    pub fn recover(&self) -> Result<(), EehError> {
        self.recover_within(TIMEOUT)
    }

    /// Does the same as [`Self::recover`], with another time limit for a PE that is unavailable.
    pub fn recover_within(&self, patience: Duration) -> Result<(), EehError> {
        let (device, group) = (&self.opened.device, self.opened.device.group());
        // Check whether there is something to recover before turning anything off.
        self.state()?;
        self.opened.disable_interrupts()?;
        self.opened.stop_dma()?;
        let began = Instant::now();
        while self.state()? == PeState::Unavailable {
            if began.elapsed() >= patience {
                return Err(EehError::Unavailable { group, waited: began.elapsed() });
            }
            std::thread::sleep(POLL_INTERVAL.min(patience));
        }
        for step in [op::RESET_HOT, op::RESET_DEACTIVATE, op::CONFIGURE] {
            operate(device, step)?;
        }
        match self.state()? {
            PeState::Normal => {}
            state => return Err(EehError::NotRecovered { group, state }),
        }
        self.opened.restore()?;
        match self.opened.present()? {
            now if now == self.id => Ok(()),
            now => Err(EehError::OtherDevice { device: Arc::clone(&self.opened.address), was: self.id, now }),
        }
    }

    /// Makes the firmware inject an error, for tests.
    ///
    /// Linux checks the function (at most 19) and then asks the platform. pseries accepts loads and
    /// stores of memory only; powernv accepts what its PHB can do: under QEMU, powernv9 errors of
    /// the configuration space (4, 5, 10, 11), powernv8 also those of memory (0, 1, 6, 7) and of
    /// DMA (12 to 19), though no PE freezes for them there. Otherwise fails with
    /// [`EehError::NotInjected`].
    pub fn inject(&self, injection: Injection) -> Result<(), EehError> {
        let device = &self.opened.device;
        let Injection { wide, function, address, mask } = injection;
        let error = PeErr { kind: wide.into(), func: function, addr: address, mask };
        calls::eeh_inject(device.host().as_ref(), container(device)?, error).map_err(|error| {
            match (no_pe(device, &error), error.errno()) {
                (Some(no_pe), _) => no_pe,
                (None, Some(errno)) => EehError::NotInjected { group: device.group(), errno },
                (None, None) => error.into(),
            }
        })
    }
}
