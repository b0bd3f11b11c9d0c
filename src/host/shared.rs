//! Memory that this process shares with devices.
//!
//! A device may change it at any moment, so no Rust reference to it is ever made: it is read and
//! written by copies, piece by piece, and each naturally aligned 1, 2, 4 or 8 bytes are one access.
#![allow(unsafe_code, reason = "memory is mapped here, and reached by pointer only")]

use super::{Errno, Region, volatile};
use crate::addr::{PageShift, UserAddr, UserRange};
use core::ffi::c_void;
use core::fmt;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use parking_lot::RwLock;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::os::fd::AsFd;
use std::sync::Arc;

/// Memory of this process that can be given to devices. Clones share the memory, which is freed
/// with the last of them.
///
/// Reads and writes are in bounds or fail with `EINVAL`. One call's reads precede the next call's
/// reads, and one call's writes are visible before the next call's writes: a device that sees the
/// flag sees the data.
#[derive(Clone)]
pub struct Shared(Arc<Inner>);

struct Inner {
    base: NonNull<c_void>,
    range: UserRange,
    owner: Owner,
}

enum Owner {
    /// A mapping made here, including the excess mapped for alignment.
    Mapping { base: NonNull<c_void>, len: usize },
    /// Memory of the allocator.
    Heap(Layout),
    /// The caller's memory, valid while this is true.
    Borrowed(RwLock<bool>),
}

// SAFETY: the memory belongs to no Rust value, except for `Borrowed`, whose borrower is kept away
// by its lifetime. All accesses are volatile; callers synchronise concurrent accesses.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

impl Shared {
    /// Allocates anonymous memory with [`map_anonymous`].
    pub(super) fn anonymous(size: u64, page: PageShift, host: PageShift, align: PageShift) -> Result<Self, Errno> {
        let (start, len, range) = map_anonymous(size, page, host, align)?;
        let base = start.map_addr(|at| at.saturating_add((range.start().0 - address(start)) as usize));
        Ok(Self(Arc::new(Inner { base, range, owner: Owner::Mapping { base: start, len } })))
    }

    /// Maps `len` bytes of a file at `offset`, shared with everyone who maps it: a memfd, or a file
    /// of hugetlbfs. Both must be whole pages of the file. The file must not shrink while this
    /// lives, or an access ends the process.
    pub fn file(file: impl AsFd, offset: u64, len: u64) -> Result<Self, Errno> {
        let bytes = usize::try_from(len).ok().and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        let at = i64::try_from(offset).map_err(|_| Errno::EINVAL)?;
        let end = offset.checked_add(len).ok_or(Errno::EINVAL)?;
        let there = nix::sys::stat::fstat(&file)?.st_size;
        if u64::try_from(there).unwrap_or(0) < end {
            return Err(Errno::EINVAL);
        }
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping where the kernel finds room replaces none.
        let base = unsafe { mmap(None, bytes, protection, MapFlags::MAP_SHARED, file, at) }?;
        let owner = Owner::Mapping { base, len: bytes.get() };
        let range = UserRange::new(UserAddr(address(base)), len).map_err(|_| Errno::EINVAL)?;
        Ok(Self(Arc::new(Inner { base, range, owner })))
    }

    /// Allocates zeroed memory from the allocator, for the kernel in process.
    #[cfg(feature = "model")]
    pub(crate) fn heap(size: u64, align: PageShift) -> Result<Self, Errno> {
        let (len, align) = (usize::try_from(size).map_err(|_| Errno::ENOMEM)?, align.bytes() as usize);
        let layout = Layout::from_size_align(len, align).map_err(|_| Errno::ENOMEM)?;
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        // SAFETY: the layout's size is not 0.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or(Errno::ENOMEM)?.cast();
        let owner = Owner::Heap(layout);
        let inner = |range| Inner { base, range, owner };
        let range = UserRange::new(UserAddr(address(base)), size).map_err(|_| Errno::ENOMEM)?;
        Ok(Self(Arc::new(inner(range))))
    }

    /// Runs `f` with a slice as memory to share. Afterwards, even if `f` panics, no clone reaches
    /// the slice any longer; `f` must take it back from devices before that.
    pub(crate) fn with_slice<R>(slice: &mut [u8], f: impl FnOnce(&Self) -> R) -> Result<R, Errno> {
        let len = slice.len() as u64;
        let base = NonNull::from(slice).cast::<c_void>();
        let range = UserRange::new(UserAddr(address(base)), len).map_err(|_| Errno::EINVAL)?;
        if range.start().0 % 8 != 0 {
            return Err(Errno::EINVAL);
        }
        let shared = Revoked(Self(Arc::new(Inner { base, range, owner: Owner::Borrowed(RwLock::new(true)) })));
        Ok(f(&shared.0))
    }

    /// Returns its addresses in this process.
    pub fn range(&self) -> UserRange {
        self.0.range
    }

    /// Returns whether it is borrowed and its owner will take it back.
    pub(crate) fn is_lent(&self) -> bool {
        matches!(self.0.owner, Owner::Borrowed(_))
    }

    /// Reads `data.len()` bytes at `offset`.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.0.check(offset, data.len())?;
        self.0.with(|base| {
            // SAFETY: `check` saw that the bytes lie in the memory, which starts on a multiple of 8
            // and is valid.
            unsafe { volatile::read(base, offset, data) };
            fence(Ordering::Acquire);
        })
    }

    /// Writes `data` at `offset`.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.0.check(offset, data.len())?;
        self.0.with(|base| {
            fence(Ordering::Release);
            // SAFETY: as in `read`, and the memory is writable.
            unsafe { volatile::write(base, offset, data) };
        })
    }
}

impl Inner {
    fn check(&self, offset: u64, len: usize) -> Result<(), Errno> {
        let end = u64::try_from(len).ok().and_then(|len| offset.checked_add(len));
        if end.is_some_and(|end| end <= self.range.len()) { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// Runs `f` while the memory is valid.
    fn with(&self, f: impl FnOnce(*mut c_void)) -> Result<(), Errno> {
        let lent = match &self.owner {
            Owner::Borrowed(lent) => Some(lent.read()),
            _ => None,
        };
        if lent.as_ref().is_some_and(|lent| !**lent) {
            return Err(Errno::EFAULT);
        }
        f(self.base.as_ptr());
        Ok(())
    }
}

/// Takes a borrowed slice back from all remaining clones when dropped.
struct Revoked(Shared);

impl Drop for Revoked {
    fn drop(&mut self) {
        if let Owner::Borrowed(lent) = &self.0.0.owner {
            *lent.write() = false;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        match &self.owner {
            // SAFETY: the mapping that was made here; nothing refers to it any longer.
            Owner::Mapping { base, len } => drop(unsafe { munmap(*base, *len) }),
            // SAFETY: allocated here with that layout; nothing refers to it any longer.
            Owner::Heap(layout) => unsafe { dealloc(self.base.as_ptr().cast(), *layout) },
            Owner::Borrowed(_) => {}
        }
    }
}

impl Region for Shared {
    fn size(&self) -> u64 {
        self.range().len()
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        Self::read(self, offset, data)
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        Self::write(self, offset, data)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Shared({})", self.range())
    }
}

/// Maps anonymous memory: `size` bytes in whole pages of `page`, from hugetlb where that is not the
/// host's, aligned to it and to `align`. Returns the whole mapping, its length, and the requested
/// part of it.
pub(super) fn map_anonymous(
    size: u64,
    page: PageShift,
    host: PageShift,
    align: PageShift,
) -> Result<(NonNull<c_void>, usize, UserRange), Errno> {
    if page < host || size == 0 || size & page.mask() != 0 {
        return Err(Errno::EINVAL);
    }
    let mut flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS;
    if page > host {
        let shift = i32::try_from(page.get()).map_err(|_| Errno::EINVAL)? << libc::MAP_HUGE_SHIFT;
        flags |= MapFlags::MAP_HUGETLB | MapFlags::from_bits_retain(shift);
    }
    // The kernel aligns to the page; a larger alignment needs room in front.
    let asked = size.checked_add(align.bytes().saturating_sub(page.bytes())).ok_or(Errno::ENOMEM)?;
    let len = usize::try_from(asked).ok().and_then(NonZeroUsize::new).ok_or(Errno::ENOMEM)?;
    // SAFETY: a new mapping where the kernel finds room replaces none.
    let base = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, flags) }?;
    let start = align.ceil(address(base)).ok_or(Errno::ENOMEM)?;
    let range = UserRange::new(UserAddr(start), size).map_err(|_| Errno::ENOMEM)?;
    Ok((base, len.get(), range))
}

fn address(base: NonNull<c_void>) -> u64 {
    base.as_ptr().expose_provenance() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heap() -> Shared {
        Shared::heap(0x2000, PageShift::P4K).unwrap()
    }

    #[test]
    fn memory_is_aligned_zeroed_and_keeps_what_is_written() {
        let memory = heap();
        assert!(memory.range().is_aligned(PageShift::P4K));
        let mut back = [1; 37];
        memory.read(3, &mut back).unwrap();
        assert_eq!(back, [0; 37]);
        let bytes: Vec<u8> = (0..37).collect();
        memory.clone().write(3, &bytes).unwrap();
        memory.read(3, &mut back).unwrap();
        assert_eq!(back, bytes[..]);
    }

    #[test]
    fn nothing_outside_is_reached() {
        let memory = heap();
        for (offset, len) in [(0x2000, 1), (0x1ffd, 4), (u64::MAX, 1), (u64::MAX - 3, 4), (0, 0x2001)] {
            let mut data = vec![0; len];
            assert_eq!(memory.read(offset, &mut data), Err(Errno::EINVAL), "{len} at {offset:#x}");
            assert_eq!(memory.write(offset, &data), Err(Errno::EINVAL), "{len} at {offset:#x}");
        }
        assert_eq!(memory.read(0x2000, &mut []), Ok(()));
    }

    #[test]
    fn a_slice_is_lent_and_taken_back() {
        let mut words = [0u64; 4];
        let slice = zerocopy::IntoBytes::as_mut_bytes(&mut words);
        let kept = Shared::with_slice(slice, |memory| {
            memory.write(8, &[7; 8]).unwrap();
            memory.clone()
        })
        .unwrap();
        assert_eq!(kept.read(8, &mut [0; 8]), Err(Errno::EFAULT));
        assert_eq!(kept.write(0, &[1]), Err(Errno::EFAULT));
        assert_eq!(words, [0, u64::from_ne_bytes([7; 8]), 0, 0]);
        let slice = zerocopy::IntoBytes::as_mut_bytes(&mut words);
        assert!(Shared::with_slice(&mut slice[1..], |_| ()).is_err(), "not on a multiple of 8");
        assert!(Shared::with_slice(&mut [], |_| ()).is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps memory")]
    fn anonymous_memory_and_files_are_mapped() {
        let page = crate::host::vfio::Vfio::new();
        let page = crate::host::Host::page_shift(&page);
        let memory = Shared::anonymous(page.bytes(), page, page, PageShift::P2M).unwrap();
        assert!(memory.range().start().0.is_multiple_of(2 << 20));
        memory.write(0, b"there").unwrap();
        assert_eq!(Shared::anonymous(page.bytes() + 1, page, page, page).err(), Some(Errno::EINVAL));
        assert_eq!(Shared::anonymous(0, page, page, page).err(), Some(Errno::EINVAL));
        let file = tempfile::tempfile().unwrap();
        file.set_len(2 * page.bytes()).unwrap();
        let memory = Shared::file(&file, page.bytes(), page.bytes()).unwrap();
        memory.write(1, b"in the file").unwrap();
        let mut back = [0; 11];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut back, page.bytes() + 1).unwrap();
        assert_eq!(&back, b"in the file");
        assert_eq!(Shared::file(&file, page.bytes(), 2 * page.bytes()).err(), Some(Errno::EINVAL), "past its end");
        assert_eq!(Shared::file(&file, 0, 0).err(), Some(Errno::EINVAL));
        assert_eq!(Shared::file(&file, 1, page.bytes()).err(), Some(Errno::EINVAL), "not on a page");
    }
}
