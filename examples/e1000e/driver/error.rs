//! Errors of a port.

use spapr_iommu::device::{AccessError, DeviceError};
use spapr_iommu::dma::{DmaError, OutOfBounds};
use spapr_iommu::host::Errno;
use std::time::Duration;

/// Why a port failed. Drop it afterwards and start it again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum E1000eError {
    /// It has no BAR or no interrupts, or cannot be put on or taken off the bus.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A register access failed, for example because the device is gone or frozen.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No memory for rings.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// An entry is outside a ring.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// Interrupts cannot be waited for.
    #[error("cannot wait for interrupts: {0}")]
    Wait(Errno),
    /// A state was not reached in time.
    #[error("the controller is not {what} within {timeout:?}, its status reads {status:#x}: reset it")]
    NotInTime { what: &'static str, timeout: Duration, status: u32 },
    /// The controller reports an error with a packet.
    #[error("a packet arrived with errors {errors:#x}")]
    Packet { errors: u8 },
    /// All descriptors of a ring are in use.
    #[error("all descriptors of ring {ring} are in use: wait for packets")]
    Full { ring: usize },
    /// A packet without bytes, or with pieces that no descriptor can hold.
    #[error("a packet has 1 to {most} pieces of 1 to 16383 bytes each")]
    Pieces { most: usize },
    /// A feature that this driver does not support.
    #[error("this driver does not support {what}")]
    Unsupported { what: &'static str },
}
