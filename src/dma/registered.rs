//! Memory of the process with its registration.

use super::{DmaError, OutOfBounds};
use crate::addr::PageShift;
use crate::host::{Host, Shared};
use crate::registry::{Lease, Registry};
use core::fmt;
use std::sync::Arc;

/// Memory with its registration, which ends before the memory goes.
pub(super) struct RegisteredMemory {
    pub(super) shared: Shared,
    /// The largest IOMMU page it can serve.
    pub(super) max_iommu_page: PageShift,
    lease: Option<Lease>,
    host: Arc<dyn Host>,
}

impl RegisteredMemory {
    /// Allocates and registers `size` bytes in whole pages of `page`.
    pub(super) fn new(registry: &Registry, size: u64, page: PageShift) -> Result<Arc<Self>, DmaError> {
        let shared = registry.host().share(size, page);
        Self::register(registry, shared.map_err(|errno| DmaError::Memory { bytes: size, page, errno })?)
    }

    /// Registers existing memory.
    pub(super) fn adopt(registry: &Registry, shared: &Shared) -> Result<Arc<Self>, DmaError> {
        let (user, page) = (shared.range(), registry.host().page_shift());
        if !user.is_aligned(page) {
            return Err(DmaError::Unaligned { user, page });
        }
        let failed = |errno| DmaError::Memory { bytes: user.len(), page, errno };
        registry.host().adopt(shared).map_err(failed)?;
        Self::register(registry, shared.clone())
    }

    fn register(registry: &Registry, shared: Shared) -> Result<Arc<Self>, DmaError> {
        let range = shared.range();
        let host = Arc::clone(registry.host());
        let mut memory = Self { shared, max_iommu_page: host.page_shift(), lease: None, host };
        memory.lease = Some(registry.register_kept(&memory.shared)?);
        // Without an answer the host's page stays, which any memory serves.
        memory.max_iommu_page = registry.max_iommu_page(range).unwrap_or(memory.max_iommu_page);
        Ok(Arc::new(memory))
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), OutOfBounds> {
        let result = self.shared.read(offset, data);
        result.map_err(|_| self.out_of_bounds(offset, data.len()))
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<(), OutOfBounds> {
        self.shared.write(offset, data).map_err(|_| self.out_of_bounds(offset, data.len()))
    }

    fn out_of_bounds(&self, offset: u64, len: usize) -> OutOfBounds {
        OutOfBounds { offset, len: len as u64, size: self.shared.available() }
    }

    /// Returns `len` bytes at `offset` of the `size` bytes that begin at `first`.
    #[cfg(feature = "vm-memory")]
    pub(super) fn volatile_slice(
        &self,
        first: u64,
        size: u64,
        offset: u64,
        len: u64,
    ) -> Result<vm_memory::VolatileSlice<'_>, OutOfBounds> {
        OutOfBounds::check(offset, len, size)?;
        self.shared.volatile_slice(first + offset, len).ok_or(OutOfBounds { offset, len, size })
    }
}

impl Drop for RegisteredMemory {
    fn drop(&mut self) {
        let here = self.lease.as_ref().is_none_or(Lease::is_here);
        match self.lease.take() {
            Some(lease) if here && self.shared.is_lent() => end_loan(lease),
            lease => drop(lease),
        }
        if here {
            self.host.disown(&self.shared);
        }
    }
}

/// Releases memory that was lent. If devices may still reach it, because a map failed halfway or it
/// was mapped elsewhere as well, the process ends: its owner is about to use it again, and cannot
/// be made to wait.
fn end_loan(lease: Lease) {
    if let Err(error) = lease.release() {
        tracing::error!(%error, "a slice that was lent to devices is still mapped");
        std::process::abort();
    }
}

impl fmt::Debug for RegisteredMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, IOMMU pages up to {}", self.shared.range(), self.max_iommu_page)
    }
}
