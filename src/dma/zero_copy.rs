//! Memory for devices by its address, for calls that fill it or drain it without a copy: `read`,
//! `writev`, io_uring's, or the traits of `vm-memory`.
//!
//! A pointer is good for as many bytes as its method says, and as long as what it was taken from
//! lives. A device may change the bytes at any moment, so no reference to them may be made, not
//! even for a moment: give the pointer to the kernel, or access it with
//! [`core::ptr::read_volatile`] and [`core::ptr::write_volatile`].

#[cfg(feature = "vm-memory")]
use super::OutOfBounds;
use super::{Block, Buffer, DmaMemory, StreamMap};
#[cfg(feature = "vm-memory")]
use crate::host::Shared;
#[cfg(feature = "vm-memory")]
use vm_memory::VolatileSlice;

impl<T> Buffer<T> {
    /// Its first byte in the process. The pointer is good for [`Self::size`] bytes while the buffer
    /// lives; a device may change them at any moment, so no reference to them may be made.
    pub fn as_ptr(&self) -> *mut u8 {
        self.leased().shared.as_ptr().wrapping_add(self.offset() as usize)
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.bytes().len()
    }

    /// `len` bytes at `offset`, both in bytes, for the traits of `vm-memory`.
    #[cfg(feature = "vm-memory")]
    pub fn volatile_slice(&self, offset: u64, len: u64) -> Result<VolatileSlice<'_>, OutOfBounds> {
        slice(&self.leased().shared, self.offset(), self.size(), offset, len)
    }
}

impl<T> Block<T> {
    /// Its first byte in the process. The pointer is good for `size_of::<T>()` bytes while the
    /// block lives; a device may change them at any moment, so no reference to them may be made.
    pub fn as_ptr(&self) -> *mut u8 {
        self.buffer().as_ptr().wrapping_add(self.index() * size_of::<T>())
    }

    /// `len` bytes at `offset`, for the traits of `vm-memory`.
    #[cfg(feature = "vm-memory")]
    pub fn volatile_slice(&self, offset: u64, len: u64) -> Result<VolatileSlice<'_>, OutOfBounds> {
        let size = size_of::<T>() as u64;
        let first = self.buffer().offset() + self.index() as u64 * size;
        slice(&self.buffer().leased().shared, first, size, offset, len)
    }
}

impl DmaMemory {
    /// Its first byte in the process. The pointer is good for [`Self::size`] bytes while this or a
    /// clone lives; a device may change them at any moment, so no reference to them may be made.
    pub fn as_ptr(&self) -> *mut u8 {
        self.leased().shared.as_ptr()
    }

    /// `len` bytes at `offset`, for the traits of `vm-memory`.
    #[cfg(feature = "vm-memory")]
    pub fn volatile_slice(&self, offset: u64, len: u64) -> Result<VolatileSlice<'_>, OutOfBounds> {
        slice(&self.leased().shared, 0, self.size(), offset, len)
    }
}

impl StreamMap {
    /// The first byte of the part in the process. The pointer is good for `iova_range().len()`
    /// bytes while the map lives; a device may change them at any moment, so no reference to them
    /// may be made.
    pub fn as_ptr(&self) -> *mut u8 {
        self.leased().shared.as_ptr().wrapping_add(self.first() as usize)
    }

    /// `len` bytes at `offset` in the part, for the traits of `vm-memory`.
    #[cfg(feature = "vm-memory")]
    pub fn volatile_slice(&self, offset: u64, len: u64) -> Result<VolatileSlice<'_>, OutOfBounds> {
        slice(&self.leased().shared, self.first(), self.size(), offset, len)
    }
}

/// `len` bytes at `offset` of the `size` bytes that begin at `first` in `shared`.
#[cfg(feature = "vm-memory")]
fn slice(shared: &Shared, first: u64, size: u64, offset: u64, len: u64) -> Result<VolatileSlice<'_>, OutOfBounds> {
    let within = offset.checked_add(len).is_some_and(|end| end <= size);
    let slice = within.then(|| shared.volatile_slice(first + offset, len)).flatten();
    slice.ok_or(OutOfBounds { offset, len, size })
}
