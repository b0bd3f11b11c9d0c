//! Errors of a device.

use super::kind::InterruptKind;
use super::pe::PeState;
use crate::error::classify;
use crate::host::Errno;
use crate::host::calls::CallError;
use crate::space::AttachError;
use std::sync::Arc;

/// Why a register access failed or returned no valid value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum AccessError {
    /// The access leaves the region.
    #[error("device {device}, {region}: {width} bytes at {offset:#x} leave its {size:#x} bytes")]
    Outside { device: Arc<str>, region: &'static str, offset: u64, width: usize, size: u64 },
    /// The access is not aligned to its width, so it would not be a single access.
    #[error(
        "device {device}, {region}: an access of {width} bytes at {offset:#x} is not aligned: align it to its width"
    )]
    Misaligned { device: Arc<str>, region: &'static str, offset: u64, width: usize },
    /// The register is in the configuration space and has its own method.
    #[error("device {device}: {width} bytes at {offset:#x} of the configuration space change {register}: use {method}")]
    Guarded { device: Arc<str>, offset: u64, width: usize, register: &'static str, method: &'static str },
    /// EEH has stopped the device's PE: loads return ones, stores are lost, DMA is stopped.
    #[error(
        "device {device} reads all ones: its PE is {state}: recover it with `Eeh::recover`, then set the device up again"
    )]
    Frozen { device: Arc<str>, state: PeState },
    /// The device no longer answers.
    #[error("device {device} reads all ones, its configuration space as well: it is gone, drop it")]
    Gone { device: Arc<str> },
    /// The kernel refused.
    #[error("device {device}, {region}: cannot access {width} bytes at {offset:#x}: {errno}")]
    Failed { device: Arc<str>, region: &'static str, offset: u64, width: usize, errno: Errno },
}

classify!(AccessError {
    Argument: Outside, Misaligned, Guarded;
    Device: Frozen, Gone;
    Kernel: Failed;
});

/// Why a device was not opened, or not changed. Nothing has changed, except where the error says
/// so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum DeviceError {
    /// The device cannot be opened.
    #[error(transparent)]
    Open(#[from] AttachError),
    /// The device is already open here; opening it again would stop the DMA of its owner.
    #[error("device {device} is open in this address space: drop that `Device` first")]
    OpenAlready { device: Arc<str> },
    /// The device is not a PCI device.
    #[error("device {device} is not a PCI device")]
    NotPci { device: Arc<str> },
    /// The device has no such BAR.
    #[error("device {device} has no BAR {index}: it has {present:?}")]
    NoBar { device: Arc<str>, index: u32, present: Vec<u32> },
    /// A region cannot be opened.
    #[error("device {device}: cannot open {region}: {errno}")]
    Region { device: Arc<str>, region: &'static str, errno: Errno },
    /// An access failed.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The bus master bit does not change.
    #[error("device {device} keeps its bus master bit: its command register reads {command:#06x}")]
    BusMaster { device: Arc<str>, command: u16 },
    /// The kernel knows no way to reset it.
    #[error(
        "the kernel has no way to reset device {device} alone: where it has a PE, `Eeh::recover` resets it with its bus"
    )]
    NoReset { device: Arc<str> },
    /// The device has no interrupts of this kind.
    #[error("device {device} has no {kind} interrupt")]
    NoInterrupt { device: Arc<str>, kind: InterruptKind },
    /// The device has fewer vectors, or none was requested.
    #[error("{requested} vectors of {kind} requested: device {device} has 1 to {there}")]
    Vectors { device: Arc<str>, kind: InterruptKind, requested: u32, there: u32 },
    /// The machine has fewer vectors left.
    #[error(
        "{requested} vectors of {kind} requested: the machine has {available} left for device {device}, request these"
    )]
    Exhausted { device: Arc<str>, kind: InterruptKind, requested: u32, available: u32 },
    /// Interrupts of this kind are already enabled; none can be added.
    #[error("{kind} of device {device} is enabled: drop all its `Interrupt`s first, then enable as many as needed")]
    EnabledAlready { device: Arc<str>, kind: InterruptKind },
    /// A device can have only one of INTx, MSI and MSI-X at a time.
    #[error(
        "{requested} of device {device} cannot be enabled together with {enabled}: drop all `Interrupt`s of {enabled} first"
    )]
    OtherKind { device: Arc<str>, requested: InterruptKind, enabled: InterruptKind },
    /// The interrupt was disabled: its device was dropped or recovered.
    #[error("{kind} of device {device} was disabled when the device was dropped or recovered: enable it again")]
    Disabled { device: Arc<str>, kind: InterruptKind },
    /// The interrupts were enabled, but the device does not know where to send them; they are
    /// disabled again.
    #[error(
        "the kernel did not tell device {device} where message {vector} of {kind} goes, as Linux 7.2 on pseries does after a reset of \
         the device: bind it again (`spapr-iommu unbind {device}`, then `spapr-iommu bind {device}`), or use INTx"
    )]
    NoMessages { device: Arc<str>, kind: InterruptKind, vector: u32 },
    /// An eventfd could not be created.
    #[error("cannot create an eventfd: {0}")]
    Eventfd(Errno),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

classify!(DeviceError {
    Argument: Vectors;
    NotFound: NoBar, NoInterrupt;
    Busy: OpenAlready, EnabledAlready, OtherKind;
    NoMemory: Exhausted;
    Unsupported: NotPci, NoReset;
    Setup: NoMessages;
    Device: BusMaster, Disabled;
    Kernel: Region, Eventfd;
    inner: Open.0, Access.0, Call.0;
});
