//! Memory of the process for devices.
#![allow(unsafe_code, reason = "exports functions, and takes memory of the caller")]

use crate::host::Host;
use crate::pointer::{Bytes, file};
use crate::status::{Failure, Status, call, free, required, value};
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::null_mut;
use spapr_iommu::addr::{GuestAddr, GuestRange, UserAddr, UserRange};
use spapr_iommu::guest::{Slot, Slots};
use spapr_iommu::host::{Errno, Protection, Shared};
use spapr_iommu::{PageShift, Registry};
use std::sync::Arc;

/// Memory that devices may be given. Leases and guests keep it, so the handle may be freed at any
/// time.
pub struct Memory(pub(crate) Arc<Kept>);

/// Memory, as long as a handle, a lease or a guest holds it.
#[derive(Clone)]
pub(crate) enum Kept {
    Shared(Arc<Owned>),
    Caller(Arc<Lent>),
}

/// Memory of the library.
pub(crate) struct Owned {
    shared: Shared,
    host: Host,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.host.get().disown(&self.shared);
    }
}

/// Memory of the caller.
#[derive(Debug)]
pub(crate) struct Lent {
    bytes: Arc<Bytes>,
    host: ModelHost,
}

/// The model that was lent memory; the running kernel sees all of the process.
struct ModelHost(Option<Host>);

impl core::fmt::Debug for ModelHost {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(if self.0.is_some() { "model" } else { "kernel" })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(model) = &self.host.0 {
            // Whole pages that were lent are never refused.
            let _ = model.memory().free(self.bytes.range());
        }
    }
}

impl Kept {
    pub(crate) fn range(&self) -> UserRange {
        match self {
            Self::Shared(owned) => owned.shared.range(),
            Self::Caller(lent) => lent.bytes.range(),
        }
    }

    pub(crate) fn register(&self, registry: &Registry) -> Result<spapr_iommu::Lease, Failure> {
        match self {
            Self::Shared(owned) => Ok(registry.register(&owned.shared)?),
            Self::Caller(lent) => lent.bytes.register(registry),
        }
    }

    /// Adds it as guest RAM from `start` on.
    pub(crate) fn insert(&self, slots: &Slots, start: u64) -> Result<(), Failure> {
        match self {
            Self::Shared(owned) => Ok(slots.insert(GuestAddr(start), &owned.shared)?),
            Self::Caller(lent) => {
                let range = lent.bytes.range();
                let guest = GuestRange::new(GuestAddr(start), range.len())?;
                Bytes::insert(slots, Slot { guest, user: range.start() }, Arc::clone(lent) as _)
            }
        }
    }

    fn base(&self) -> *mut u8 {
        match self {
            Self::Shared(owned) => owned.shared.as_ptr(),
            Self::Caller(lent) => lent.bytes.base(),
        }
    }
}

/// So that a guest's slot holds the memory until it is removed.
impl spapr_iommu::host::Memory for Lent {
    fn allocate(&self, _size: u64, _page: PageShift) -> Result<UserRange, Errno> {
        Err(Errno::EINVAL)
    }

    fn free(&self, _range: UserRange) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn protect(&self, _range: UserRange, _protection: Protection) -> Result<(), Errno> {
        Err(Errno::EINVAL)
    }

    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno> {
        spapr_iommu::host::LentMemory::read(self.bytes.as_ref(), at, data)
    }

    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno> {
        spapr_iommu::host::LentMemory::write(self.bytes.as_ref(), at, data)
    }
}

/// Returns the page of that power of two; the host's for 0.
pub(crate) fn page(shift: u32) -> Result<Option<PageShift>, Failure> {
    if shift == 0 {
        return Ok(None);
    }
    let wrong =
        || Failure::argument("page-shift", format!("2^{shift} is not an IOMMU page: 12 is 4 KiB, 16 is 64 KiB"));
    PageShift::new(shift).map(Some).ok_or_else(wrong)
}

/// Allocates `size` zeroed bytes in whole pages of 2^`page_shift` bytes, which is the host's page
/// (0) or one of hugetlb.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_memory_allocate(
    host: Option<&Host>,
    size: u64,
    page_shift: u32,
    memory: Option<&mut MaybeUninit<Option<Box<Memory>>>>,
) -> Status {
    call(|| {
        let place = required(memory, "memory")?.write(None);
        let host = required(host, "host")?;
        let page = page(page_shift)?.unwrap_or_else(|| host.page());
        let shared = host.get().share(size, page);
        let shared = shared.map_err(|errno| Failure::errno("the host has no such memory", errno))?;
        *place = Some(Box::new(Memory(Arc::new(Kept::Shared(Arc::new(Owned { shared, host: host.clone() }))))));
        Ok(())
    })
}

/// Maps `size` bytes at `offset` of a memfd or a file of hugetlbfs, whole pages of the host and of
/// the file, shared with all who map it. The file may be closed afterwards. A memfd of
/// MFD_ALLOW_SEALING is sealed against shrinking; any other must not shrink while it is mapped.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_memory_file(
    host: Option<&Host>,
    fd: i32,
    offset: u64,
    size: u64,
    memory: Option<&mut MaybeUninit<Option<Box<Memory>>>>,
) -> Status {
    call(|| {
        let place = required(memory, "memory")?.write(None);
        let host = required(host, "host")?;
        // SAFETY: an open file, as the header requires.
        let fd = unsafe { file(fd, "fd") }?;
        let shared = Shared::file(fd, offset, size, host.page())?;
        let adopted = host.get().adopt(&shared);
        adopted.map_err(|errno| Failure::errno("the host cannot see the file's memory", errno))?;
        *place = Some(Box::new(Memory(Arc::new(Kept::Shared(Arc::new(Owned { shared, host: host.clone() }))))));
        Ok(())
    })
}

/// Takes memory of the caller: `size` bytes at `start`, whole pages of the host, readable and
/// writable.
///
/// The caller keeps it mapped as it is (no munmap, mremap, madvise(MADV_DONTNEED) or free()) until
/// the handle is freed, each lease on it is released, and each guest that has it as RAM has removed
/// it or is freed with all handles of its PHBs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_memory_borrow(
    host: Option<&Host>,
    start: *mut c_void,
    size: u64,
    memory: Option<&mut MaybeUninit<Option<Box<Memory>>>>,
) -> Status {
    call(|| {
        let place = required(memory, "memory")?.write(None);
        let host = required(host, "host")?;
        if start.is_null() {
            return Err(Failure::argument("null", "start is NULL"));
        }
        // SAFETY: the header requires it of the caller.
        let bytes = Arc::new(unsafe { Bytes::new(start.cast(), size) }?);
        let (range, page) = (bytes.range(), host.page());
        if !range.is_aligned(page) {
            return Err(Failure::argument("misaligned", format!("{range} is not whole host pages of {page}")));
        }
        // A model would register the same memory twice, and lose it with the first of the two.
        if host.is_model() && host.get().backing(range).is_ok_and(|extents| !extents.is_empty()) {
            return Err(Failure::busy(
                "lent-already",
                format!("the model has memory at {range} already: free that first"),
            ));
        }
        let lent = host.memory().lend(range, Arc::clone(&bytes) as _);
        lent.map_err(|errno| Failure::errno("the host cannot see this memory", errno))?;
        let host = ModelHost(host.is_model().then(|| host.clone()));
        *place = Some(Box::new(Memory(Arc::new(Kept::Caller(Arc::new(Lent { bytes, host }))))));
        Ok(())
    })
}

/// Returns the first byte; NULL for NULL. The memory is there while the handle, a lease or a guest
/// has it. Devices and guests may change it at any moment: access it as volatile or atomic.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_memory_address(memory: Option<&Memory>) -> *mut c_void {
    value(null_mut(), || memory.map_or(null_mut(), |memory| memory.0.base().cast()))
}

/// Returns the size in bytes; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_memory_size(memory: Option<&Memory>) -> u64 {
    value(0, || memory.map_or(0, |memory| memory.0.range().len()))
}

/// Frees the handle, and the memory once no lease and no guest has it.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_memory_free(memory: Option<Box<Memory>>) {
    free(memory);
}
