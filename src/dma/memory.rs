//! Memory that is registered for devices, and mapped as they need it.

use super::mapped::Mapped;
use super::{Dma, DmaError, OutOfBounds};
use crate::addr::{IovaRange, PageShift, UserAddr, UserRange};
use crate::host::{Errno, Host, Shared};
use crate::permission::Permission;
use crate::registry::{Lease, Registry};
use arrayvec::ArrayVec;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Memory with its registration, which ends before the memory goes.
pub(super) struct RegisteredMemory {
    pub shared: Shared,
    /// The largest IOMMU page it can serve.
    pub max_iommu_page: PageShift,
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
        let mut leased = Self { shared, max_iommu_page: host.page_shift(), lease: None, host };
        leased.lease = Some(registry.register_kept(&leased.shared)?);
        leased.max_iommu_page = registry.max_iommu_page(range).unwrap_or(leased.max_iommu_page);
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
        OutOfBounds { offset, len: len as u64, size: self.shared.available() }
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

/// Releases what was lent. Where devices may still reach it, since a map failed halfway or somebody
/// mapped it in other places as well, the process ends: its owner is about to use it again, and
/// cannot be made to wait.
fn end_loan(lease: Lease) {
    if let Err(error) = lease.release() {
        tracing::error!(%error, "a slice that was lent to devices is still mapped");
        std::process::abort();
    }
}

/// Memory that is registered, and in reach of devices only where and as long as it is
/// [mapped](Self::map): for transfers that are mapped one by one. Clones are the same memory.
#[derive(Clone)]
pub struct DmaMemory {
    dma: Dma,
    leased: Arc<RegisteredMemory>,
}

impl Dma {
    /// New memory of at least `bytes`, zeroed: registered, not mapped. In hugetlb pages where the
    /// window that devices reach has such and the process gets some; in pages of the host where
    /// there is a window of such pages; refused where there is neither. Before a device is open, in
    /// pages of the host.
    pub fn memory(&self, bytes: u64) -> Result<DmaMemory, DmaError> {
        if bytes == 0 {
            return Err(DmaError::Empty);
        }
        let registry = self.space().registry();
        let host = registry.host().page_shift();
        let mut refused = None;
        for page in self.backing_pages(bytes)? {
            let size = page.ceil(bytes).ok_or(DmaError::Memory { bytes, page, errno: Errno::ENOMEM })?;
            match RegisteredMemory::new(registry, size, page) {
                Ok(leased) => return Ok(DmaMemory { dma: self.clone(), leased }),
                // Smaller pages may be there, or fit.
                Err(error) if page > host => {
                    refused.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or(DmaError::NoDevice))
    }

    /// The pages with which memory can be mapped in the windows, best first.
    fn backing_pages(&self, bytes: u64) -> Result<ArrayVec<PageShift, 2>, DmaError> {
        let host = self.space().registry().host().page_shift();
        let windows = match self.windows() {
            Err(DmaError::NoDevice) => return Ok(ArrayVec::from_iter([host])),
            windows => windows?,
        };
        let backing = |which| self.page_of(which).map(|page| page.max(host));
        let mut pages = windows.into_iter().map(backing).collect::<Result<ArrayVec<_, 2>, _>>()?;
        // Little memory would waste most of a large page.
        pages.sort_by_key(|page| *page > host && bytes <= page.bytes() / 2);
        Ok(pages)
    }

    /// Registers `len` bytes of a file at `offset`, shared with all who map it: a memfd, or a file
    /// of hugetlbfs. Both are whole pages of the host, and of the file.
    ///
    /// Should the file shrink meanwhile, an access to what it lost would end the process with
    /// `SIGBUS`, and devices keep what they had. So a memfd of `MFD_ALLOW_SEALING` is sealed with
    /// `F_SEAL_SHRINK`, for good. Of a file that cannot be sealed the size is looked at before each
    /// access, which fails with [`OutOfBounds`] then; it must not shrink during one, nor under an
    /// access by address. [`DmaMemory::may_shrink`] tells.
    pub fn file(&self, file: impl AsFd, offset: u64, len: u64) -> Result<DmaMemory, DmaError> {
        let registry = self.space().registry();
        let shared = Shared::file(file, offset, len, registry.host().page_shift())?;
        Ok(DmaMemory { dma: self.clone(), leased: RegisteredMemory::adopt(registry, &shared)? })
    }

    /// Maps a slice for devices while `f` runs, which gets the bus address of its first byte and
    /// the bytes behind that by copies. It begins and ends on a host page, as that of
    /// [`Dma::aligned_bytes`] does. When `f` returns or panics it is unmapped and the slice is the
    /// caller's again, with what devices wrote. Should the kernel not unmap it, or `f` leave it
    /// mapped elsewhere by its address ([`AddressSpace::map`](crate::space::AddressSpace::map)), the
    /// process ends: a device could write to what is the caller's.
    ///
    /// The map cannot outlive the slice, since `f` only borrows it:
    ///
    /// ```compile_fail,E0521
    /// # use spapr_iommu::{Dma, Permission, dma::StreamMap};
    /// # fn lend(dma: &Dma) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut variable = [0u8; 0x1_0000];
    /// let mut kept: Option<&StreamMap> = None;
    /// dma.with_slice(&mut variable, Permission::ReadWrite, |map| kept = Some(map))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_slice<R>(
        &self,
        slice: &mut [u8],
        permission: Permission,
        f: impl FnOnce(&StreamMap) -> R,
    ) -> Result<R, DmaError> {
        let bytes = slice.len() as u64;
        let page = self.space().registry().host().page_shift();
        let user = UserRange::new(UserAddr(slice.as_ptr().addr() as u64), bytes).map_err(|_| DmaError::Empty)?;
        if !user.is_aligned(page) {
            return Err(DmaError::Unaligned { user, page });
        }
        let lent = Shared::with_slice(slice, |shared| {
            let leased = RegisteredMemory::adopt(self.space().registry(), shared)?;
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

    /// Whether it is of a file that may still shrink: what it loses cannot be accessed any longer,
    /// and by address ends the process.
    pub fn may_shrink(&self) -> bool {
        self.leased.shared.may_shrink()
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
        let user = self.part(offset, len)?;
        let mapped = Mapped::new(&self.dma, &self.leased, user, permission)?;
        Ok(StreamMap { mapped, user })
    }

    /// Where `len` bytes at `offset` lie in the process, if they lie in this memory.
    pub(super) fn part(&self, offset: u64, len: u64) -> Result<UserRange, OutOfBounds> {
        let outside = OutOfBounds { offset, len, size: self.size() };
        let within = offset.checked_add(len).is_some_and(|end| end <= self.size());
        let start = UserAddr(self.leased.shared.range().start().0.saturating_add(offset));
        UserRange::new(start, len).ok().filter(|_| within).ok_or(outside)
    }

    pub(super) fn dma(&self) -> &Dma {
        &self.dma
    }

    pub(super) fn leased(&self) -> &Arc<RegisteredMemory> {
        &self.leased
    }
}

/// A part of a [`DmaMemory`], or a slice, that devices reach until this is dropped.
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

    pub(super) fn leased(&self) -> &Arc<RegisteredMemory> {
        self.mapped.leased()
    }

    #[cfg(feature = "vm-memory")]
    pub(super) fn size(&self) -> u64 {
        self.user.len()
    }

    /// Where the part begins in all of the memory.
    pub(super) fn first(&self) -> u64 {
        self.user.start().0 - self.leased().shared.range().start().0
    }

    /// The offset in all of the memory.
    fn at(&self, offset: u64, len: usize) -> Result<u64, OutOfBounds> {
        let (len, size) = (len as u64, self.user.len());
        let within = offset.checked_add(len).is_some_and(|end| end <= size);
        if within { Ok(self.first() + offset) } else { Err(OutOfBounds { offset, len, size }) }
    }
}
