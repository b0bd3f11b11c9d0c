//! Pools: blocks of one buffer, taken and returned without a kernel call.

use super::{Buffer, Dma, DmaError, OutOfBounds, Pod};
use crate::addr::{Iova, IovaRange};
use crate::permission::Permission;
use core::fmt;
use parking_lot::Mutex;
use std::sync::Arc;

/// A fixed number of blocks of one type, mapped once. Taking or returning a block is a lock and an
/// index: no ioctl, no allocation. The last block returned is taken first, as it is warm in caches.
/// Clones share the pool.
pub struct Pool<T>(Arc<Inner<T>>);

struct Inner<T> {
    buffer: Buffer<T>,
    /// Free blocks, the next one last.
    free: Mutex<Vec<usize>>,
}

impl Dma {
    /// Creates a pool of `blocks` blocks.
    pub fn pool<T: Pod>(&self, blocks: usize, permission: Permission) -> Result<Pool<T>, DmaError> {
        let buffer = self.buffer(blocks, permission)?;
        Ok(Pool(Arc::new(Inner { buffer, free: Mutex::new((0..blocks).rev().collect()) })))
    }
}

impl<T: Pod> Pool<T> {
    /// Takes a block. It holds what it held when it was returned.
    pub fn take(&self) -> Result<Block<T>, DmaError> {
        let mut free = self.0.free.lock();
        let index = *free.last().ok_or(DmaError::PoolEmpty { blocks: self.0.buffer.len() })?;
        let iova = self.0.buffer.iova_range_of(index)?;
        free.pop();
        Ok(Block { pool: Arc::clone(&self.0), index, iova })
    }

    /// Returns the number of blocks in the pool.
    pub fn blocks(&self) -> usize {
        self.0.buffer.len()
    }

    /// Returns the number of free blocks.
    pub fn free(&self) -> usize {
        self.0.free.lock().len()
    }
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// A block of a [`Pool`], which gets it back when this is dropped. Accesses are those of
/// [`Buffer`].
pub struct Block<T> {
    pool: Arc<Inner<T>>,
    index: usize,
    iova: IovaRange,
}

impl<T: Pod> Block<T> {
    /// Returns its bus address.
    pub fn iova(&self) -> Iova {
        self.iova.start()
    }

    /// Returns its bus addresses.
    pub fn iova_range(&self) -> IovaRange {
        self.iova
    }

    /// Reads the block.
    pub fn read(&self) -> Result<T, OutOfBounds> {
        self.pool.buffer.read(self.index)
    }

    /// Writes the block.
    pub fn write(&self, value: T) -> Result<(), OutOfBounds> {
        self.pool.buffer.write(self.index, value)
    }

    /// Reads a field by its offset, from `core::mem::offset_of!`.
    pub fn read_field<F: Pod>(&self, offset: usize) -> Result<F, OutOfBounds> {
        self.pool.buffer.read_field(self.index, offset)
    }

    /// Writes a field by its offset, from `core::mem::offset_of!`.
    pub fn write_field<F: Pod>(&self, offset: usize, value: F) -> Result<(), OutOfBounds> {
        self.pool.buffer.write_field(self.index, offset, value)
    }

    /// Reads `data.len()` bytes at `offset`.
    pub fn read_bytes(&self, offset: u64, data: &mut [u8]) -> Result<(), OutOfBounds> {
        self.pool.buffer.read_bytes(self.within(offset, data.len())?, data)
    }

    /// Writes `data` at `offset`.
    pub fn write_bytes(&self, offset: u64, data: &[u8]) -> Result<(), OutOfBounds> {
        self.pool.buffer.write_bytes(self.within(offset, data.len())?, data)
    }

    /// Returns the offset in the whole pool.
    fn within(&self, offset: u64, len: usize) -> Result<u64, OutOfBounds> {
        OutOfBounds::check(offset, len as u64, size_of::<T>() as u64)?;
        Ok(self.first() + offset)
    }
}

impl<T> Block<T> {
    /// Returns the first byte in the process. The pointer is good for `size_of::<T>()` bytes while
    /// the block lives; a device may change them at any moment, so no reference to them may be
    /// made.
    pub fn as_ptr(&self) -> *mut u8 {
        self.pool.buffer.as_ptr().wrapping_add(self.first() as usize)
    }

    /// Returns `len` bytes at `offset`, for the traits of `vm-memory`.
    #[cfg(feature = "vm-memory")]
    pub fn volatile_slice(&self, offset: u64, len: u64) -> Result<vm_memory::VolatileSlice<'_>, OutOfBounds> {
        OutOfBounds::check(offset, len, size_of::<T>() as u64)?;
        self.pool.buffer.volatile_slice(self.first() + offset, len)
    }

    /// Returns where it begins in the pool's buffer, bytes.
    fn first(&self) -> u64 {
        self.iova.start().0 - self.pool.buffer.bytes().start().0
    }
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (free, all) = (self.0.free.lock().len(), self.0.buffer.elements());
        write!(f, "Pool({:?}, {free} of {all} free)", self.0.buffer)
    }
}

impl<T> fmt::Debug for Block<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} of {:?})", self.index, self.pool.buffer)
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        if !self.pool.buffer.dma().is_here() {
            return;
        }
        self.pool.free.lock().push(self.index);
    }
}
