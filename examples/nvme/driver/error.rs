//! Errors of the disk.

use super::command::Status;
use spapr_iommu::addr::IovaRange;
use spapr_iommu::device::{AccessError, DeviceError};
use spapr_iommu::dma::{DmaError, OpenError, OutOfBounds};
use spapr_iommu::host::Errno;
use std::time::Duration;

/// Why the disk did not carry out a request. After an error other than [`Self::Command`],
/// [`Self::Range`] or [`Self::Buffer`] it should be dropped and opened again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NvmeError {
    /// It was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It has no BAR or no interrupts, or cannot be put on or taken off the bus.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A register access failed, for example because the device is gone or frozen.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No memory for queues.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// An entry lies outside a queue.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// An interrupt cannot be waited for.
    #[error("cannot wait for the interrupt: {0}")]
    Wait(Errno),
    /// A state was not reached in time.
    #[error("the controller is not {what} within {timeout:?}, its status reads {status:#x}: reset it")]
    NotInTime { what: &'static str, timeout: Duration, status: u32 },
    /// The controller failed: CSTS.CFS is set.
    #[error("the controller has failed, its status reads {status:#x}: reset it")]
    Failed { status: u32 },
    /// A command was answered with an error.
    #[error("command {opcode:#04x} failed: {status}")]
    Command { opcode: u8, status: Status },
    /// Commands are not answered, although the controller seems to work.
    #[error("{commands} commands are not answered within {timeout:?}: reset the controller")]
    Timeout { commands: usize, timeout: Duration },
    /// A completion for a command that is not in progress.
    #[error("the controller completes command {id}, which is not under way: reset it")]
    Stranger { id: u16 },
    /// All commands of the queue are in progress.
    #[error("all {depth} commands are under way: wait for one")]
    Full { depth: u16 },
    /// The blocks do not exist, or are too many.
    #[error("blocks {first} and {count} in all: the disk has blocks 0 to {}, a command takes 1 to {most}", blocks - 1)]
    Range { first: u64, count: u32, blocks: u64, most: u32 },
    /// Memory that no command can describe.
    #[error("the memory at {iova} is not a whole number of blocks of {block} bytes, or does not begin on 4 bytes")]
    Buffer { iova: IovaRange, block: u64 },
    /// A feature that this driver does not support.
    #[error("this driver does not support {what}")]
    Unsupported { what: &'static str },
}
