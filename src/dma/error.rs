//! Errors of memory for devices.

use super::DmaMask;
use crate::addr::{Bytes, Iova, IovaRange, PageShift, UserRange};
use crate::host::Errno;
use crate::registry::RegisterError;
use crate::space::{MapError, UnmapError, WindowError};

/// Why memory was not allocated, or not mapped. Nothing has changed, except that windows may have
/// been created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum DmaError {
    /// No bytes were requested.
    #[error("a buffer of no bytes was asked for: ask for one element at least")]
    Empty,
    /// The size exceeds the address space.
    #[error("{count} elements of {size} bytes are more than any memory: ask for less")]
    TooLarge { count: usize, size: usize },
    /// No device has been opened yet, so no window is known.
    #[error("no device is open: open one first, windows are its group's")]
    NoDevice,
    /// A device reaches no window.
    #[error(
        "a device with a DMA mask of {mask} reaches no DMA window, the lowest bus address for memory is {lowest}: it cannot do DMA here"
    )]
    MaskTooSmall {
        /// The smallest mask of the devices that are open.
        mask: DmaMask,
        /// The lowest bus address of all windows that is given out.
        lowest: Iova,
    },
    /// No bus addresses are left.
    #[error(
        "no {} of bus addresses in one piece are free in {window}, the largest is {}: drop buffers, or ask for a larger \
         window with `DmaConfig::capacity`",
        Bytes(*bytes),
        Bytes(*largest)
    )]
    NoRoom {
        bytes: u64,
        window: IovaRange,
        /// The largest piece that is free, and in reach of the devices.
        largest: u64,
    },
    /// The process could not get the memory.
    #[error("no {} of memory in pages of {page}: {errno}", Bytes(*bytes))]
    Memory { bytes: u64, page: PageShift, errno: Errno },
    /// Existing memory does not begin and end on a page.
    #[error("the memory at {user} does not begin and end on a page of {page}: devices would see what is beside it")]
    Unaligned { user: UserRange, page: PageShift },
    /// The range lies outside the memory.
    #[error(transparent)]
    OutOfBounds(#[from] OutOfBounds),
    /// All blocks of a pool are taken.
    #[error("all {blocks} blocks of the pool are taken: drop one, or make the pool larger")]
    PoolEmpty { blocks: usize },
    /// No window could be created.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The memory cannot be registered, for example because the process may not lock more.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The memory cannot be mapped.
    #[error(transparent)]
    Map(#[from] MapError),
}

/// An access outside a buffer. Nothing was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len} bytes at offset {offset:#x} lie outside the memory of {} bytes", size)]
pub struct OutOfBounds {
    /// Offset in bytes; all ones if it exceeds 64 bits.
    pub offset: u64,
    /// Number of bytes accessed.
    pub len: u64,
    /// Size of the memory in bytes.
    pub size: u64,
}

/// Why a buffer was not released. `held` is the unchanged buffer.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct ReleaseError<B> {
    /// The buffer, unchanged.
    pub held: B,
    /// The reason.
    pub why: ReleaseRefusal,
}

/// Reasons for not releasing a buffer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum ReleaseRefusal {
    /// A device may be using it.
    #[error("{iova} is in reach of {device}, which does DMA: stop it first with `Device::stop_dma`")]
    DeviceRuns {
        iova: IovaRange,
        /// The PCI address of one that does DMA.
        device: String,
    },
    /// The kernel did not unmap it.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
}
