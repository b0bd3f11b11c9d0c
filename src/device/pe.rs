//! The PE of a device, as the calls of the kernel see it.
//!
//! A PE belongs to a group, but the kernel's call acts on all groups of a container.

use crate::error::classify;
use crate::host::calls::{self, CallError};
use crate::host::{Errno, Fd};
use crate::pci::Group;
pub(super) use crate::space::RawDevice;
use crate::uapi::eeh::{PeErr, op, state};
use core::fmt;

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

/// Why a call on a PE failed. It changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum PeError {
    /// The group has no PE with EEH; emulated devices of pseries have none.
    #[error("group {group} has no PE with EEH: there is nothing to recover, use `Device::reset`")]
    NoPe { group: Group },
    /// The container has other groups, which the call would also act on.
    #[error(
        "group {group} shares its container with {others:?}, and EEH acts on all of it: attach the group by itself"
    )]
    Shared { group: Group, others: Vec<Group> },
    /// The kernel reports an unknown state.
    #[error("the PE of group {group} is in state {state}, which is unknown")]
    UnknownState { group: Group, state: i32 },
    /// The call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

classify!(PeError {
    Unsupported: NoPe;
    Busy: Shared;
    Kernel: UnknownState;
    inner: Call.0;
});

/// Returns the state of a device's PE.
pub(super) fn state(device: &RawDevice) -> Result<PeState, PeError> {
    container(device)?;
    any_state(device)
}

/// Returns the state of a device's PE; if the container has several groups, the state of the first
/// PE that is not normal.
pub(super) fn any_state(device: &RawDevice) -> Result<PeState, PeError> {
    let group = device.group();
    match run(device, device.container().0, op::GET_STATE)? {
        state::NORMAL => Ok(PeState::Normal),
        state::RESET => Ok(PeState::Reset),
        state::STOPPED => Ok(PeState::Stopped),
        state::STOPPED_DMA => Ok(PeState::StoppedDma),
        state::UNAVAIL => Ok(PeState::Unavailable),
        state => Err(PeError::UnknownState { group, state }),
    }
}

/// Runs an operation on a device's PE.
pub(super) fn operate(device: &RawDevice, op: u32) -> Result<i32, PeError> {
    run(device, container(device)?, op)
}

/// Injects an error into a device's PE.
pub(super) fn inject(device: &RawDevice, error: PeErr) -> Result<(), PeError> {
    calls::eeh_inject(device.host().as_ref(), container(device)?, error).map_err(|error| failed(device, error))
}

fn container(device: &RawDevice) -> Result<Fd, PeError> {
    let (fd, others) = device.container();
    if others.is_empty() { Ok(fd) } else { Err(PeError::Shared { group: device.group(), others }) }
}

fn run(device: &RawDevice, container: Fd, op: u32) -> Result<i32, PeError> {
    calls::eeh_pe_op(device.host().as_ref(), container, op).map_err(|error| failed(device, error))
}

fn failed(device: &RawDevice, error: CallError) -> PeError {
    if error.errno() == Some(Errno::ENODEV) { PeError::NoPe { group: device.group() } } else { error.into() }
}
