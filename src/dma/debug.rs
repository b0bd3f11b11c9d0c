//! `Debug` in a line: what is shared by all memory is not shown with each piece of it.

use super::memory::RegisteredMemory;
use super::{Block, Buffer, Dma, DmaMemory, Pool, ScatterMap, StreamMap};
use core::fmt;

impl fmt::Debug for Dma {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The thread that prints may hold the lock.
        match self.0.state.try_lock() {
            Some(state) => write!(f, "Dma({} devices, {:?})", state.devices.count(), state.arenas),
            None => f.write_str("Dma(busy)"),
        }
    }
}

impl<T> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} bytes at {})", self.elements(), size_of::<T>(), self.bytes())
    }
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (free, all) = self.count();
        write!(f, "Pool({:?}, {free} of {all} free)", self.buffer())
    }
}

impl<T> fmt::Debug for Block<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Block({} of {:?})", self.index(), self.buffer())
    }
}

impl fmt::Debug for RegisteredMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, IOMMU pages up to {}", self.shared.range(), self.max_iommu_page)
    }
}

impl fmt::Debug for DmaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaMemory({:?})", self.leased())
    }
}

impl fmt::Debug for StreamMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamMap({} of {:?})", self.iova_range(), self.leased())
    }
}

impl fmt::Debug for ScatterMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.iova_ranges();
        let (first, last) = (parts.first().map(|part| part.start()), parts.last().map(|part| part.end()));
        write!(f, "ScatterMap({} parts from {first:x?} to {last:x?} of {:?})", parts.len(), self.leased())
    }
}
