//! Why a device refuses, or what is wrong with it.

use super::InterruptKind;
use crate::device::eeh::PeState;
use crate::host::Errno;
use crate::host::calls::CallError;
use crate::host::irqs::IrqsError;
use crate::space::AttachError;
use std::sync::Arc;

/// Why an access to a BAR or to the configuration space was not made, or what came of it is no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum AccessError {
    /// It leaves the region.
    #[error("device {device}, {region}: {width} bytes at {offset:#x} leave its {size:#x} bytes")]
    Outside {
        /// The device's address.
        device: Arc<str>,
        /// Which region.
        region: &'static str,
        /// Where, from the region's start.
        offset: u64,
        /// Bytes of the access.
        width: usize,
        /// Bytes of the region.
        size: u64,
    },
    /// It is not aligned to its width, so it would not be one access.
    #[error(
        "device {device}, {region}: an access of {width} bytes at {offset:#x} is not aligned: align it to its width"
    )]
    Misaligned {
        /// The device's address.
        device: Arc<str>,
        /// Which region.
        region: &'static str,
        /// Where, from the region's start.
        offset: u64,
        /// Bytes of the access.
        width: usize,
    },
    /// A register of the configuration space that has a method of its own.
    #[error("device {device}: {width} bytes at {offset:#x} of the configuration space change {register}: use {method}")]
    Guarded {
        /// The device's address.
        device: Arc<str>,
        /// Where.
        offset: u64,
        /// Bytes of the access.
        width: usize,
        /// The register in question.
        register: &'static str,
        /// What to use.
        method: &'static str,
    },
    /// EEH has stopped the device's PE: loads give ones, stores are lost, DMA is stopped.
    #[error(
        "device {device} reads all ones: its PE is {state}: recover it with `Eeh::recover`, then set the device up anew"
    )]
    Frozen {
        /// The device's address.
        device: Arc<str>,
        /// The state of its PE.
        state: PeState,
    },
    /// The device does not answer any more.
    #[error("device {device} reads all ones, its configuration space as well: it is gone, drop it")]
    Gone {
        /// The device's address.
        device: Arc<str>,
    },
    /// The kernel refused.
    #[error("device {device}, {region}: cannot access {width} bytes at {offset:#x}: {errno}")]
    Failed {
        /// The device's address.
        device: Arc<str>,
        /// Which region.
        region: &'static str,
        /// Where, from the region's start.
        offset: u64,
        /// Bytes of the access.
        width: usize,
        /// Why.
        errno: Errno,
    },
}

/// Why a device was not opened, or not changed. Nothing has changed, but where the error says what has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum DeviceError {
    /// It cannot be opened.
    #[error(transparent)]
    Open(#[from] AttachError),
    /// It is open here, and would be reset to no DMA under its owner's feet.
    #[error("device {device} is open in this address space: drop that `Device` first")]
    OpenAlready {
        /// The device's address.
        device: Arc<str>,
    },
    /// It is no PCI device.
    #[error("device {device} is no PCI device")]
    NotPci {
        /// The device's address.
        device: Arc<str>,
    },
    /// It has no such BAR.
    #[error("device {device} has no BAR {index}: it has {present:?}")]
    NoBar {
        /// The device's address.
        device: Arc<str>,
        /// Which.
        index: u32,
        /// Those it has.
        present: Vec<u32>,
    },
    /// A region cannot be opened.
    #[error("device {device}: cannot open {region}: {errno}")]
    Region {
        /// The device's address.
        device: Arc<str>,
        /// Which.
        region: &'static str,
        /// Why.
        errno: Errno,
    },
    /// An access failed.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The bus master bit does not change.
    #[error("device {device} keeps its bus master bit: its command register reads {command:#06x}")]
    BusMaster {
        /// The device's address.
        device: Arc<str>,
        /// What it reads.
        command: u16,
    },
    /// The kernel knows no way to reset it.
    #[error(
        "the kernel has no way to reset device {device} alone: where it has a PE, `Eeh::recover` resets it with its bus"
    )]
    NoReset {
        /// The device's address.
        device: Arc<str>,
    },
    /// It has none of these interrupts.
    #[error("device {device} has no {kind} interrupt")]
    NoInterrupt {
        /// The device's address.
        device: Arc<str>,
        /// Which.
        kind: InterruptKind,
    },
    /// It has fewer vectors, or none was asked for.
    #[error("{asked} vectors of {kind} asked for: device {device} has 1 to {there}")]
    Vectors {
        /// The device's address.
        device: Arc<str>,
        /// Which.
        kind: InterruptKind,
        /// How many were asked for.
        asked: u32,
        /// How many it has.
        there: u32,
    },
    /// The machine has fewer vectors to give.
    #[error("{asked} vectors of {kind} asked for: the machine has {available} left for device {device}, ask for these")]
    Exhausted {
        /// The device's address.
        device: Arc<str>,
        /// Which.
        kind: InterruptKind,
        /// How many were asked for.
        asked: u32,
        /// How many can be had.
        available: u32,
    },
    /// Such interrupts are enabled, all at once: none can be added.
    #[error("{kind} of device {device} is enabled: drop all its `Interrupt`s first, then enable as many as it takes")]
    EnabledAlready {
        /// The device's address.
        device: Arc<str>,
        /// Which.
        kind: InterruptKind,
    },
    /// A device has one of INTx, MSI and MSI-X at a time.
    #[error("{asked} of device {device} cannot be enabled beside {enabled}: drop all `Interrupt`s of {enabled} first")]
    OtherKind {
        /// The device's address.
        device: Arc<str>,
        /// Which were asked for.
        asked: InterruptKind,
        /// Which are enabled.
        enabled: InterruptKind,
    },
    /// The interrupt was disabled: its device was dropped or recovered.
    #[error("{kind} of device {device} was disabled when the device was dropped or recovered: enable it anew")]
    Disabled {
        /// The device's address.
        device: Arc<str>,
        /// Which.
        kind: InterruptKind,
    },
    /// They were enabled, and the device was not told where to send them; they are disabled again.
    #[error(
        "the kernel did not tell device {device} where message {vector} of {kind} goes, as Linux 7.2 on pseries does once the device was \
         reset: bind it anew (`spapr-iommu unbind {device}`, then `spapr-iommu bind {device}`), or use INTx"
    )]
    NoMessages {
        /// The device's address.
        device: Arc<str>,
        /// Which.
        kind: InterruptKind,
        /// The first vector without an address.
        vector: u32,
    },
    /// No eventfd could be made.
    #[error("cannot make an eventfd: {0}")]
    Eventfd(Errno),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The kernel refused interrupts.
    #[error(transparent)]
    Irqs(#[from] IrqsError),
}
