//! Errors of memory for devices.

use super::DmaMask;
use crate::addr::{Amount, Iova, IovaRange, PageShift, UserRange};
use crate::error::{ErrorKind, classify};
use crate::host::{Errno, FileError};
use crate::registry::RegisterError;
use crate::space::{MapError, UnmapError, WindowError};

/// Why memory was not made, or not mapped. Nothing has changed, except that windows may have been
/// created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum DmaError {
    /// No bytes were requested.
    #[error("a buffer of no bytes was requested: request one element at least")]
    Empty,
    /// The size exceeds the address space.
    #[error("{count} elements of {size} bytes are more than any memory: request less")]
    TooLarge { count: usize, size: usize },
    /// No device has been opened yet, so no window is known.
    #[error("no device is open: open one first, windows are its group's")]
    NoDevice,
    /// A device reaches no window, or too little of one for any memory.
    #[error(
        "a device with a DMA mask of {mask} cannot do DMA here: memory for devices begins at bus address {lowest}, \
         and the first piece of it takes a mask of {least}"
    )]
    MaskTooSmall {
        /// The smallest mask of the devices that are open.
        mask: DmaMask,
        lowest: Iova,
        least: DmaMask,
    },
    /// No bus addresses are left.
    #[error(
        "no {} of bus addresses in one piece are free in {window}, the largest is {}: drop buffers, or request a larger \
         window with `DmaConfig::capacity`",
        Amount(*bytes),
        Amount(*largest)
    )]
    NoRoom {
        bytes: u64,
        window: IovaRange,
        /// The largest piece that is free, and in reach of the devices.
        largest: u64,
    },
    /// No bus addresses are left in the default window, whose size the firmware fixes, and there is
    /// no dynamic one.
    #[error(
        "no {} of bus addresses in one piece are free in the default window, {window}, the largest is {}: drop buffers, \
         or have a dynamic window, which was refused: {why}",
        Amount(*bytes),
        Amount(*largest)
    )]
    NoRoomInDefault { bytes: u64, window: IovaRange, largest: u64, why: WindowError },
    /// No bus addresses are left in reach of the device with the smallest mask. A larger window
    /// would not add any.
    #[error(
        "no {} of bus addresses in one piece are free in {window} in reach of a device with a DMA mask of {mask}, the \
         largest is {}: drop buffers, and open the devices with the smallest masks first",
        Amount(*bytes),
        Amount(*largest)
    )]
    NoRoomInReach { bytes: u64, window: IovaRange, mask: DmaMask, largest: u64 },
    /// The process got no memory.
    #[error("no {} of memory in pages of {page}: {errno}", Amount(*bytes))]
    Memory { bytes: u64, page: PageShift, errno: Errno },
    /// Existing memory does not begin and end on a page.
    #[error(
        "the memory at {user} does not begin and end on a page of {page}, and devices would see what is beside it: \
             take whole pages, as `Dma::aligned_bytes` makes them"
    )]
    Unaligned { user: UserRange, page: PageShift },
    /// The window's pages are larger than the memory's.
    #[error(
        "the memory at {user} supports IOMMU pages up to {max_iommu_page}, and the window has pages of {page}: make it with \
         `Dma::memory` once the device is open, take it of hugetlb pages, or set `DmaConfig::page` to a smaller page"
    )]
    PageTooLarge { user: UserRange, max_iommu_page: PageShift, page: PageShift },
    /// A file cannot be shared with devices.
    #[error(transparent)]
    File(#[from] FileError),
    /// Outside the memory.
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

classify!(DmaError {
    Argument: Empty, TooLarge, Unaligned, PageTooLarge;
    NotFound: NoDevice;
    Unsupported: MaskTooSmall;
    NoMemory: NoRoom, NoRoomInDefault, NoRoomInReach, Memory, PoolEmpty;
    inner: File.0, OutOfBounds.0, Window.0, Register.0, Map.0;
});

impl DmaError {
    /// Returns whether the window has no room, and another one may have.
    pub(super) fn is_no_room(&self) -> bool {
        matches!(self, Self::NoRoom { .. } | Self::NoRoomInDefault { .. } | Self::NoRoomInReach { .. })
    }
}

/// An access outside a buffer. Nothing was read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{len:#x} bytes at offset {offset:#x} lie outside the memory of {size:#x} bytes")]
pub struct OutOfBounds {
    /// Offset in bytes; all ones if it exceeds 64 bits.
    pub offset: u64,
    /// Number of bytes accessed.
    pub len: u64,
    /// Size of the memory in bytes.
    pub size: u64,
}

impl OutOfBounds {
    /// Checks that `len` bytes at `offset` lie within `size`.
    pub(super) fn check(offset: u64, len: u64, size: u64) -> Result<(), Self> {
        let within = offset.checked_add(len).is_some_and(|end| end <= size);
        if within { Ok(()) } else { Err(Self { offset, len, size }) }
    }

    /// Returns what the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Argument
    }

    /// Returns a stable name of the cause, in kebab case.
    pub fn code(&self) -> &'static str {
        "out-of-bounds"
    }
}

/// Why a buffer was not released. It is unchanged.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub struct NotReleased<B> {
    /// The buffer, unchanged.
    pub buffer: B,
    /// The reason.
    pub why: ReleaseRefusal,
}

impl<B> NotReleased<B> {
    /// Returns what the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.why.kind()
    }

    /// Returns a stable name of the cause, in kebab case.
    pub fn code(&self) -> &'static str {
        self.why.code()
    }
}

/// The reason for which a buffer was not released.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
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

classify!(ReleaseRefusal { Busy: DeviceRuns; inner: Unmap.0; });
