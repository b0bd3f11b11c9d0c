//! Memory that is registered once and mapped transfer by transfer, and slices that are lent to
//! devices for one.

use super::mapped::Mapped;
use super::registered::RegisteredMemory;
use super::{Dma, DmaError, OutOfBounds};
use crate::addr::{IovaRange, PageShift, UserAddr, UserRange};
use crate::host::{Errno, Shared};
use crate::permission::Permission;
use arrayvec::ArrayVec;
use core::fmt;
use core::ops::{Deref, DerefMut};
use std::os::fd::AsFd;
use std::sync::Arc;
#[cfg(feature = "vm-memory")]
use vm_memory::VolatileSlice;

/// Memory that is registered, and in reach of devices only where and as long as it is
/// [mapped](Self::map): for transfers that are mapped one by one. Clones are the same memory.
#[derive(Clone)]
pub struct DmaMemory {
    dma: Dma,
    memory: Arc<RegisteredMemory>,
}

impl Dma {
    /// Allocates at least `bytes`, zeroed: registered, not mapped. Uses hugetlb pages if the window
    /// that devices reach has such pages and the process gets some, else pages of the host if there
    /// is a window of such pages, and fails if there is neither. Before a device is open it uses
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
                Ok(memory) => return Ok(DmaMemory { dma: self.clone(), memory }),
                // Smaller pages may be there, or fit.
                Err(error) if page > host => {
                    refused.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(refused.unwrap_or(DmaError::NoDevice))
    }

    /// Returns the pages with which memory can be mapped in the windows, best first.
    fn backing_pages(&self, bytes: u64) -> Result<ArrayVec<PageShift, 2>, DmaError> {
        let host = self.space().registry().host().page_shift();
        let windows = match self.windows() {
            Err(DmaError::NoDevice) => return Ok(ArrayVec::from_iter([host])),
            windows => windows?,
        };
        let backing = |kind| self.page_of(kind).map(|page| page.max(host));
        let mut pages = windows.into_iter().map(backing).collect::<Result<ArrayVec<_, 2>, _>>()?;
        // Little memory would waste most of a large page.
        pages.sort_by_key(|page| *page > host && bytes <= page.bytes() / 2);
        Ok(pages)
    }

    /// Registers `len` bytes of a file at `offset`, shared with all who map it: a memfd, or a file
    /// of hugetlbfs. Both are whole pages of the host, and of the file. Fails if all windows that
    /// the open devices reach have larger pages than the file.
    ///
    /// If the file shrank meanwhile, an access to the lost part would end the process with
    /// `SIGBUS`, and devices keep the old pages. So a memfd of `MFD_ALLOW_SEALING` is sealed with
    /// `F_SEAL_SHRINK`, for good. The size of a file that cannot be sealed is checked before each
    /// access, which then fails with [`OutOfBounds`]; the file must not shrink during an access,
    /// nor under an access by address. [`DmaMemory::may_shrink`] says which it is.
    pub fn file(&self, file: impl AsFd, offset: u64, len: u64) -> Result<DmaMemory, DmaError> {
        let registry = self.space().registry();
        let shared = Shared::file(file, offset, len, registry.host().page_shift())?;
        let memory = RegisteredMemory::adopt(registry, &shared)?;
        let pages = self.backing_pages(len)?;
        match pages.iter().min() {
            Some(&page) if memory.max_iommu_page < page => {
                Err(DmaError::PageTooLarge { user: shared.range(), max_iommu_page: memory.max_iommu_page, page })
            }
            _ => Ok(DmaMemory { dma: self.clone(), memory }),
        }
    }

    /// Maps a slice for devices while `f` runs, which gets the bus address of its first byte and
    /// the bytes from there on by copies. It begins and ends on a host page, as that of
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
            let memory = RegisteredMemory::adopt(self.space().registry(), shared)?;
            let map = DmaMemory { dma: self.clone(), memory }.map(0, bytes, permission)?;
            Ok(f(&map))
        });
        lent.map_err(|errno| DmaError::Memory { bytes, page, errno })?
    }
}

impl DmaMemory {
    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.memory.shared.range().len()
    }

    /// Returns whether it is of a file that may still shrink. The part that is lost can no longer
    /// be accessed; an access by address ends the process.
    pub fn may_shrink(&self) -> bool {
        self.memory.shared.may_shrink()
    }

    /// Reads `data.len()` bytes at `offset`.
    pub fn read_bytes(&self, offset: u64, data: &mut [u8]) -> Result<(), OutOfBounds> {
        self.memory.read(offset, data)
    }

    /// Writes `data` at `offset`.
    pub fn write_bytes(&self, offset: u64, data: &[u8]) -> Result<(), OutOfBounds> {
        self.memory.write(offset, data)
    }

    /// Maps `len` bytes at `offset` until the result is dropped, with one MAP, and later one UNMAP,
    /// per container. Devices see whole IOMMU pages, so also the bytes next to these in this
    /// memory.
    pub fn map(&self, offset: u64, len: u64, permission: Permission) -> Result<StreamMap, DmaError> {
        let user = self.part(offset, len)?;
        let mapped = Mapped::new(&self.dma, &self.memory, user, permission)?;
        let iova = mapped.iova_of(user)?;
        Ok(StreamMap { mapped, user, iova })
    }

    /// Returns where `len` bytes at `offset` lie in the process, if they lie in this memory.
    pub(super) fn part(&self, offset: u64, len: u64) -> Result<UserRange, OutOfBounds> {
        let part = self.memory.shared.range().subrange(offset, len);
        part.ok_or(OutOfBounds { offset, len, size: self.size() })
    }

    /// Returns the first byte in the process. The pointer is good for [`Self::size`] bytes while
    /// this or a clone lives; a device may change them at any moment, so no reference to them may
    /// be made.
    pub fn as_ptr(&self) -> *mut u8 {
        self.memory.shared.as_ptr()
    }

    /// Returns `len` bytes at `offset`, for the traits of `vm-memory`.
    #[cfg(feature = "vm-memory")]
    pub fn volatile_slice(&self, offset: u64, len: u64) -> Result<VolatileSlice<'_>, OutOfBounds> {
        self.memory.volatile_slice(0, self.size(), offset, len)
    }

    pub(super) fn dma(&self) -> &Dma {
        &self.dma
    }

    pub(super) fn memory(&self) -> &Arc<RegisteredMemory> {
        &self.memory
    }
}

/// A part of a [`DmaMemory`], or a slice, that devices reach until this is dropped.
pub struct StreamMap {
    mapped: Mapped,
    user: UserRange,
    iova: IovaRange,
}

impl StreamMap {
    /// Returns the bus addresses of the bytes.
    pub fn iova_range(&self) -> IovaRange {
        self.iova
    }

    /// Reads `data.len()` bytes at `offset` in the part.
    pub fn read_bytes(&self, offset: u64, data: &mut [u8]) -> Result<(), OutOfBounds> {
        let at = self.at(offset, data.len())?;
        self.mapped.memory().read(at, data)
    }

    /// Writes `data` at `offset` in the part.
    pub fn write_bytes(&self, offset: u64, data: &[u8]) -> Result<(), OutOfBounds> {
        let at = self.at(offset, data.len())?;
        self.mapped.memory().write(at, data)
    }

    /// Returns the first byte of the part in the process. The pointer is good for
    /// `iova_range().len()` bytes while the map lives; a device may change them at any moment, so
    /// no reference to them may be made.
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapped.memory().shared.as_ptr().wrapping_add(self.first() as usize)
    }

    /// Returns `len` bytes at `offset` in the part, for the traits of `vm-memory`.
    #[cfg(feature = "vm-memory")]
    pub fn volatile_slice(&self, offset: u64, len: u64) -> Result<VolatileSlice<'_>, OutOfBounds> {
        self.mapped.memory().volatile_slice(self.first(), self.user.len(), offset, len)
    }

    /// Returns where the part begins in all of the memory.
    fn first(&self) -> u64 {
        self.user.start().0 - self.mapped.memory().shared.range().start().0
    }

    /// Returns the offset in all of the memory.
    fn at(&self, offset: u64, len: usize) -> Result<u64, OutOfBounds> {
        OutOfBounds::check(offset, len as u64, self.user.len())?;
        Ok(self.first() + offset)
    }
}

impl fmt::Debug for DmaMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DmaMemory({:?})", self.memory)
    }
}

impl fmt::Debug for StreamMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamMap({} of {:?})", self.iova, self.mapped.memory())
    }
}

/// Bytes of the program's own that begin and end on a page of the host, as [`Dma::with_slice`]
/// takes them. Used as a slice.
pub struct AlignedBytes {
    memory: Vec<u8>,
    /// Where the first page begins in `memory`.
    start: usize,
    len: usize,
}

impl Dma {
    /// Makes at least `len` bytes, zeroed, in whole pages of the host: memory of the program's, of
    /// which devices see nothing until it is lent to them.
    pub fn aligned_bytes(&self, len: usize) -> Result<AlignedBytes, DmaError> {
        if len == 0 {
            return Err(DmaError::Empty);
        }
        let page = self.space().registry().host().page_shift();
        let failed = || DmaError::Memory { bytes: len as u64, page, errno: Errno::ENOMEM };
        let size = page.ceil(len as u64).and_then(|size| usize::try_from(size).ok()).ok_or_else(failed)?;
        let page_bytes = page.bytes() as usize;
        let mut memory = Vec::new();
        let all = size.checked_add(page_bytes).ok_or_else(failed)?;
        memory.try_reserve_exact(all).map_err(|_| failed())?;
        memory.resize(all, 0);
        let start = memory.as_ptr().align_offset(page_bytes);
        if start >= page_bytes {
            return Err(failed());
        }
        Ok(AlignedBytes { memory, start, len: size })
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}
