//! Why the disk does not do what it was told.

use super::command::Status;
use spapr_iommu::addr::IovaRange;
use spapr_iommu::device::{AccessError, DeviceError};
use spapr_iommu::dma::{DmaError, OpenError, OutOfBounds};
use spapr_iommu::host::Errno;
use std::time::Duration;

/// Why the disk does not do what it was told. After an error that is not [`Self::Command`], [`Self::Range`] or
/// [`Self::Buffer`] it is best dropped and opened anew.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NvmeError {
    /// It was not opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It has no BAR, no interrupts, or does not get on or off the bus.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// A register was not accessed; among other reasons since the device is gone or frozen.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// No memory for queues.
    #[error(transparent)]
    Dma(#[from] DmaError),
    /// An entry outside a queue.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// An interrupt cannot be waited for.
    #[error("cannot wait for the interrupt: {0}")]
    Wait(Errno),
    /// A state was not reached.
    #[error("the controller is not {what} within {timeout:?}, its status reads {status:#x}: reset it")]
    NotInTime {
        /// The state.
        what: &'static str,
        /// As the controller says.
        timeout: Duration,
        /// CSTS.
        status: u32,
    },
    /// CSTS.CFS.
    #[error("the controller has failed, its status reads {status:#x}: reset it")]
    Failed {
        /// CSTS.
        status: u32,
    },
    /// A command was answered with an error.
    #[error("command {opcode:#04x} failed: {status}")]
    Command {
        /// Which.
        opcode: u8,
        /// Why.
        status: Status,
    },
    /// Commands are not answered, by a controller that seems well.
    #[error("{commands} commands are not answered within {timeout:?}: reset the controller")]
    Timeout {
        /// How many are under way.
        commands: usize,
        /// How long was waited.
        timeout: Duration,
    },
    /// An answer to no question.
    #[error("the controller completes command {id}, which is not under way: reset it")]
    Stranger {
        /// The identifier it gave.
        id: u16,
    },
    /// All commands of the queue are under way.
    #[error("all {depth} commands are under way: wait for one")]
    Full {
        /// How many.
        depth: u16,
    },
    /// Blocks that are not there.
    #[error("blocks {first} and {count} in all: the disk has blocks 0 to {}, a command takes 1 to {most}", blocks - 1)]
    Range {
        /// The first block.
        first: u64,
        /// How many.
        count: u32,
        /// Blocks of the disk.
        blocks: u64,
        /// Blocks of one command.
        most: u32,
    },
    /// Memory that no command can name.
    #[error("the memory at {iova} is no whole number of blocks of {block} bytes, or does not begin on 4 bytes")]
    Buffer {
        /// Where devices see it.
        iova: IovaRange,
        /// Bytes of a block.
        block: u64,
    },
    /// What this driver does not know to do.
    #[error("this driver does not support {what}")]
    Unsupported {
        /// What.
        what: &'static str,
    },
}
