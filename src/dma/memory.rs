//! Memory that is registered for devices, and mapped as they need it.

use super::mapped::Mapped;
use super::{Dma, DmaError, OutOfBounds};
use crate::addr::{IovaRange, PageShift, UserAddr, UserRange};
use crate::host::{Errno, Host, Shared};
use crate::permission::Permission;
use crate::registry::{Lease, Registry};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Memory with its registration, which ends before the memory is freed.
#[derive(Debug)]
pub(super) struct Leased {
    pub shared: Shared,
    /// The largest IOMMU page it can serve.
    pub carries: PageShift,
    lease: Option<Lease>,
    host: Arc<dyn Host>,
}

impl Leased {
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
        let mut leased = Self { shared, carries: host.page_shift(), lease: None, host };
        leased.lease = Some(registry.register(range)?);
        leased.carries = registry.carries(range).unwrap_or(leased.carries);
        Ok(Arc::new(leased))
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), OutOfBounds> {
        let result = self.shared.read(offset, data);
        result.map_err(|_| self.out_of_bounds(offset, data.len()))
    }

    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<(), OutOfBounds> {
        self.shared.write(offset, data).map_err(|_| self.out_of_bounds(offset, data.len()))
    }

    fn out_of_bounds(&self, offset: u64, len: usize) -> OutOfBounds {
        OutOfBounds { offset, len: len as u64, size: self.shared.range().len() }
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.lease = None;
        self.host.disown(&self.shared);
    }
}

/// Registered memory that devices reach only where and while it is [mapped](Self::map): for
/// transfers that are mapped one by one. Clones are the same memory.
#[derive(Clone, Debug)]
pub struct DmaMemory {
    dma: Dma,
    leased: Arc<Leased>,
}

impl Dma {
    /// Allocates at least `bytes`, zeroed and registered but not mapped. Uses hugetlb pages if the
    /// window that devices reach has such pages and the process gets some, otherwise pages of the
    /// host.
    pub fn memory(&self, bytes: u64) -> Result<DmaMemory, DmaError> {
        if bytes == 0 {
            return Err(DmaError::Empty);
        }
        let registry = self.space().registry();
        let host = registry.host().page_shift();
        let best = self.windows().ok().and_then(|windows| self.page_of(*windows.first()?).ok());
        let best = best.filter(|page| *page > host && bytes > page.bytes() / 2);
        let new = |page: PageShift| {
            let size = page.ceil(bytes).ok_or(DmaError::Memory { bytes, page, errno: Errno::ENOMEM })?;
            Leased::new(registry, size, page)
        };
        let leased = best.and_then(|page| new(page).ok()).map_or_else(|| new(host), Ok)?;
        Ok(DmaMemory { dma: self.clone(), leased })
    }

    /// Registers `len` bytes of a file at `offset`, shared with everyone who maps it: a memfd, or a
    /// file of hugetlbfs. Both must be whole pages of the file. The file must not shrink meanwhile,
    /// or an access ends the process: seal a memfd with `F_SEAL_SHRINK`.
    pub fn file(&self, file: impl AsFd, offset: u64, len: u64) -> Result<DmaMemory, DmaError> {
        let registry = self.space().registry();
        let page = registry.host().page_shift();
        let shared = Shared::file(file, offset, len);
        let shared = shared.map_err(|errno| DmaError::Memory { bytes: len, page, errno })?;
        Ok(DmaMemory { dma: self.clone(), leased: Leased::adopt(registry, &shared)? })
    }

    /// Maps a slice for devices while `f` runs, which gets its bus addresses and accesses its bytes
    /// by copies. The slice must begin and end on a host page. When `f` returns or panics, the
    /// slice is unmapped and belongs to the caller again, with what devices wrote. If the kernel
    /// cannot unmap it, the process is aborted: a device could write to the caller's memory.
    pub fn with_slice<R>(
        &self,
        slice: &mut [u8],
        permission: Permission,
        f: impl FnOnce(&StreamMap) -> R,
    ) -> Result<R, DmaError> {
        let bytes = slice.len() as u64;
        let page = self.space().registry().host().page_shift();
        let lent = Shared::with_slice(slice, |shared| {
            let leased = Leased::adopt(self.space().registry(), shared)?;
            let memory = DmaMemory { dma: self.clone(), leased };
            let map = memory.map(0, bytes, permission)?;
            Ok(f(&map))
        });
        lent.map_err(|errno| DmaError::Memory { bytes, page, errno })?
    }
}

impl DmaMemory {
    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.leased.shared.range().len()
    }

    /// Reads `data.len()` bytes at `offset`.
    pub fn read_bytes(&self, offset: u64, data: &mut [u8]) -> Result<(), OutOfBounds> {
        self.leased.read(offset, data)
    }

    /// Writes `data` at `offset`.
    pub fn write_bytes(&self, offset: u64, data: &[u8]) -> Result<(), OutOfBounds> {
        self.leased.write(offset, data)
    }

    /// Maps `len` bytes at `offset` until the result is dropped, with one MAP, and later one UNMAP,
    /// per container. Devices see whole IOMMU pages, so also the bytes next to these in this
    /// memory.
    pub fn map(&self, offset: u64, len: u64, permission: Permission) -> Result<StreamMap, DmaError> {
        let outside = OutOfBounds { offset, len, size: self.size() };
        let within = offset.checked_add(len).is_some_and(|end| end <= self.size());
        let start = UserAddr(self.leased.shared.range().start().0.saturating_add(offset));
        let user = UserRange::new(start, len).ok().filter(|_| within).ok_or(outside)?;
        let mapped = Mapped::new(&self.dma, &self.leased, user, permission)?;
        Ok(StreamMap { mapped, user })
    }
}

/// A part of a [`DmaMemory`], or a slice, that devices reach until this is dropped.
#[derive(Debug)]
pub struct StreamMap {
    mapped: Mapped,
    user: UserRange,
}

impl StreamMap {
    /// Returns the bus addresses of the bytes.
    pub fn iova_range(&self) -> IovaRange {
        self.mapped.iova_of(self.user)
    }

    /// Reads `data.len()` bytes at `offset` in the part.
    pub fn read_bytes(&self, offset: u64, data: &mut [u8]) -> Result<(), OutOfBounds> {
        let at = self.at(offset, data.len())?;
        self.mapped.leased().read(at, data)
    }

    /// Writes `data` at `offset` in the part.
    pub fn write_bytes(&self, offset: u64, data: &[u8]) -> Result<(), OutOfBounds> {
        let at = self.at(offset, data.len())?;
        self.mapped.leased().write(at, data)
    }

    /// Returns the offset in the whole memory.
    fn at(&self, offset: u64, len: usize) -> Result<u64, OutOfBounds> {
        let (len, size) = (len as u64, self.user.len());
        let within = offset.checked_add(len).is_some_and(|end| end <= size);
        let first = self.user.start().0 - self.mapped.leased().shared.range().start().0;
        if within { Ok(first + offset) } else { Err(OutOfBounds { offset, len, size }) }
    }
}
