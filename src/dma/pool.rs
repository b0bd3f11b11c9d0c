//! Pools: blocks of one buffer, taken and returned without a kernel call.

use super::{Buffer, Dma, DmaError, OutOfBounds, Pod};
use crate::addr::{Iova, IovaRange};
use crate::permission::Permission;
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
        let index = self.0.free.lock().pop();
        let index = index.ok_or(DmaError::PoolEmpty { blocks: self.0.buffer.len() })?;
        Ok(Block { pool: Arc::clone(&self.0), index })
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
}

impl<T: Pod> Block<T> {
    /// Returns its bus address.
    pub fn iova(&self) -> Iova {
        self.iova_range().start()
    }

    /// Returns its bus addresses.
    pub fn iova_range(&self) -> IovaRange {
        let all = self.pool.buffer.iova_range();
        let size = size_of::<T>() as u64;
        IovaRange::new(Iova(all.start().0 + self.index as u64 * size), size).unwrap_or(all)
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

    /// Writes a field by its offset, as of `core::mem::offset_of!`.
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
        let (len, size) = (len as u64, size_of::<T>() as u64);
        let within = offset.checked_add(len).is_some_and(|end| end <= size);
        if within { Ok(self.index as u64 * size + offset) } else { Err(OutOfBounds { offset, len, size }) }
    }
}

impl<T> Pool<T> {
    pub(super) fn buffer(&self) -> &Buffer<T> {
        &self.0.buffer
    }

    /// Blocks that are free, and of how many.
    pub(super) fn count(&self) -> (usize, usize) {
        (self.0.free.lock().len(), self.0.buffer.elements())
    }
}

impl<T> Block<T> {
    pub(super) fn buffer(&self) -> &Buffer<T> {
        &self.pool.buffer
    }

    pub(super) fn index(&self) -> usize {
        self.index
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
