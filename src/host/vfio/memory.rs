//! Allocates memory of this process and copies to and from it.
//!
//! The memory may be registered with a container, so a device may change it at any moment: no Rust
//! reference to it ever exists. The kernel does the copying for reads and writes, through a scratch
//! file in memory; it knows holes and protections better than any record kept here, and answers
//! `EFAULT` instead of a signal. (`process_vm_readv` would need no scratch file, but a kernel may
//! be built without it, a container may forbid it, and user-mode emulators lack it.)
#![allow(unsafe_code, reason = "this is where memory is mapped")]

use crate::addr::{PageShift, Range, UserAddr, UserRange};
use crate::host::Protection;
use crate::host::shared::map_anonymous;
use crate::host::{Errno, Memory};
use core::ffi::c_void;
use core::ptr::NonNull;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{ProtFlags, mprotect, munmap};
use parking_lot::RwLock;
use rangemap::RangeMap;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// Bytes copied at a time.
const CHUNK: usize = 64 << 10;

/// Memory allocated here, and its page size. Other memory is never touched.
#[derive(Debug, Default)]
pub(super) struct ProcessMemory {
    allocated: RwLock<RangeMap<u64, PageShift>>,
}

impl Memory for ProcessMemory {
    fn allocate(&self, size: u64, page: PageShift) -> Result<UserRange, Errno> {
        // The trait requires alignment to at least 64 KiB; the excess mapped for that is unmapped.
        let align = page.max(PageShift::P64K);
        let (base, len, range) = map_anonymous(size, page, super::sysfs::page_shift(), align)?;
        let start = base.as_ptr().expose_provenance() as u64;
        let before = Range::between(UserAddr(start), range.start());
        let after = Range::between(range.end(), UserAddr(start + len as u64));
        for rest in before.into_iter().chain(after) {
            // SAFETY: a part of the new mapping, whose address nobody else knows yet.
            unsafe { munmap(pointer(rest.start()), rest.len() as usize) }?;
        }
        let mut allocated = self.allocated.write();
        allocated.insert(range.start().0..range.end().0, page);
        Ok(range)
    }

    fn free(&self, range: UserRange) -> Result<(), Errno> {
        let mut allocated = self.allocated.write();
        check_pages(&allocated, range)?;
        // SAFETY: whole pages of memory that was allocated here and not freed; only its addresses
        // are known outside, and the lock keeps readers and writers away.
        unsafe { munmap(pointer(range.start()), range.len() as usize) }?;
        allocated.remove(range.start().0..range.end().0);
        Ok(())
    }

    fn protect(&self, range: UserRange, protection: Protection) -> Result<(), Errno> {
        let allocated = self.allocated.write();
        check_pages(&allocated, range)?;
        let flags = match protection {
            Protection::None => ProtFlags::PROT_NONE,
            Protection::Read => ProtFlags::PROT_READ,
            Protection::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        // SAFETY: as in `free`; no Rust reference to this memory exists, so no access can fault.
        unsafe { mprotect(pointer(range.start()), range.len() as usize, flags) }
    }

    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno> {
        let allocated = self.allocated.read();
        let Some(range) = accessed(&allocated, at, data.len())? else { return Ok(()) };
        let scratch = scratch()?;
        for (from, piece) in range.chunks(CHUNK as u64).zip(data.chunks_mut(CHUNK)) {
            let address = pointer(from.start()).as_ptr();
            // SAFETY: the kernel reads memory that was allocated here; the lock keeps it allocated
            // meanwhile.
            let copied = unsafe { libc::pwrite(scratch.as_raw_fd(), address, piece.len(), 0) };
            whole(copied, piece.len())?;
            scratch.read_exact_at(piece, 0).map_err(|_| Errno::EIO)?;
        }
        Ok(())
    }

    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno> {
        let allocated = self.allocated.read();
        let Some(range) = accessed(&allocated, at, data.len())? else { return Ok(()) };
        let scratch = scratch()?;
        for (to, piece) in range.chunks(CHUNK as u64).zip(data.chunks(CHUNK)) {
            scratch.write_all_at(piece, 0).map_err(|_| Errno::EIO)?;
            let address = pointer(to.start()).as_ptr();
            // SAFETY: the kernel writes memory that was allocated here and holds no Rust value; the
            // lock keeps it allocated meanwhile.
            let copied = unsafe { libc::pread(scratch.as_raw_fd(), address, piece.len(), 0) };
            whole(copied, piece.len())?;
        }
        Ok(())
    }
}

impl Drop for ProcessMemory {
    fn drop(&mut self) {
        let allocated = self.allocated.get_mut();
        for (range, _) in allocated.iter() {
            let len = (range.end - range.start) as usize;
            // SAFETY: memory that was allocated here and not freed; its users borrow this object.
            let _ = unsafe { munmap(pointer(UserAddr(range.start)), len) };
        }
    }
}

/// Converts an address of this process to a pointer, for the kernel only. (The zero page is never
/// allocated.)
fn pointer(at: UserAddr) -> NonNull<c_void> {
    NonNull::new(core::ptr::with_exposed_provenance_mut(at.0 as usize)).unwrap_or(NonNull::dangling())
}

/// Returns the parts of `range` with the page of each; `None` if some of it is not allocated here.
fn pages(allocated: &RangeMap<u64, PageShift>, range: UserRange) -> Option<Vec<(core::ops::Range<u64>, PageShift)>> {
    let bounds = range.start().0..range.end().0;
    let covered = allocated.gaps(&bounds).next().is_none();
    covered.then(|| allocated.overlapping(&bounds).map(|(part, page)| (part.clone(), *page)).collect())
}

/// Fails with `EINVAL` unless `range` is whole pages allocated here; for those the kernel does all
/// or nothing.
fn check_pages(allocated: &RangeMap<u64, PageShift>, range: UserRange) -> Result<(), Errno> {
    let parts = pages(allocated, range).ok_or(Errno::EINVAL)?;
    let on_page = |(part, page): &(core::ops::Range<u64>, PageShift)| {
        let start = part.start.max(range.start().0);
        let end = part.end.min(range.end().0);
        (start | end) & page.mask() == 0
    };
    if parts.iter().all(on_page) { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Returns the range of an access, `None` for an empty one; `EFAULT` unless all of it is allocated
/// here.
fn accessed(allocated: &RangeMap<u64, PageShift>, at: UserAddr, len: usize) -> Result<Option<UserRange>, Errno> {
    if len == 0 {
        return Ok(None);
    }
    let range = Range::new(at, len as u64).map_err(|_| Errno::EFAULT)?;
    pages(allocated, range).map(|_| Some(range)).ok_or(Errno::EFAULT)
}

fn scratch() -> Result<File, Errno> {
    memfd_create("spapr-iommu", MFdFlags::MFD_CLOEXEC).map(File::from)
}

/// Fails with `EFAULT` if a copy ended early, since it met memory it may not touch.
fn whole(copied: isize, asked: usize) -> Result<(), Errno> {
    let copied = Errno::result(copied)?;
    if usize::try_from(copied) == Ok(asked) { Ok(()) } else { Err(Errno::EFAULT) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> PageShift {
        super::super::sysfs::page_shift()
    }

    fn sub(range: UserRange, offset: u64, len: u64) -> UserRange {
        Range::new(UserAddr(range.start().0 + offset), len).unwrap()
    }

    #[test]
    #[cfg_attr(miri, ignore = "unmaps a part of a mapping")]
    fn memory_is_aligned_zeroed_and_keeps_what_is_written() {
        let memory = ProcessMemory::default();
        for pages in [1, 3, 40] {
            let size = pages * page().bytes();
            let range = memory.allocate(size, page()).unwrap();
            assert_eq!(range.len(), size);
            assert!(range.start().0.is_multiple_of(0x1_0000));
            let mut data = vec![1; size as usize];
            memory.read(range.start(), &mut data).unwrap();
            assert!(data.iter().all(|byte| *byte == 0));
            let pattern: Vec<u8> = (0..size).map(|i| (i % 251) as u8).collect();
            memory.write(range.start(), &pattern).unwrap();
            memory.read(range.start(), &mut data).unwrap();
            assert_eq!(data, pattern);
            memory.read(UserAddr(range.start().0 + 7), &mut data[..9]).unwrap();
            assert_eq!(data[..9], pattern[7..16]);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks for more memory than Miri has")]
    fn a_size_that_is_not_whole_pages_is_refused() {
        let memory = ProcessMemory::default();
        assert_eq!(memory.allocate(0, page()), Err(Errno::EINVAL));
        assert_eq!(memory.allocate(page().bytes() + 1, page()), Err(Errno::EINVAL));
        assert_eq!(memory.allocate(1 << 63, page()), Err(Errno::ENOMEM));
        // 8 EiB of pages no machine has.
        assert!(memory.allocate(1 << 34, PageShift::new(34).unwrap()).is_err());
    }

    #[test]
    #[cfg_attr(miri, ignore = "unmaps a part of a mapping")]
    fn a_freed_part_is_a_hole_and_the_rest_stays() {
        let memory = ProcessMemory::default();
        let size = page().bytes();
        let range = memory.allocate(3 * size, page()).unwrap();
        memory.write(range.start(), &vec![7; 3 * size as usize]).unwrap();
        let hole = sub(range, size, size);
        memory.free(hole).unwrap();
        let mut byte = [0];
        for (offset, expected) in [(size - 1, Ok(())), (size, Err(Errno::EFAULT)), (2 * size, Ok(()))] {
            assert_eq!(memory.read(UserAddr(range.start().0 + offset), &mut byte), expected, "{offset:#x}");
        }
        assert_eq!(memory.read(range.start(), &mut vec![0; 3 * size as usize]), Err(Errno::EFAULT));
        assert_eq!(memory.free(hole), Err(Errno::EINVAL), "freed twice");
        assert_eq!(memory.free(range), Err(Errno::EINVAL), "has a hole");
    }

    #[test]
    #[cfg_attr(miri, ignore = "unmaps a part of a mapping")]
    fn protections_are_the_kernels() {
        let memory = ProcessMemory::default();
        let range = memory.allocate(2 * page().bytes(), page()).unwrap();
        memory.write(range.start(), b"before").unwrap();
        let mut data = [0; 6];
        memory.protect(range, Protection::Read).unwrap();
        assert_eq!(memory.write(range.start(), b"after!"), Err(Errno::EFAULT));
        assert_eq!(memory.read(range.start(), &mut data), Ok(()));
        assert_eq!(&data, b"before");
        memory.protect(range, Protection::None).unwrap();
        assert_eq!(memory.read(range.start(), &mut data), Err(Errno::EFAULT));
        memory.protect(range, Protection::ReadWrite).unwrap();
        assert_eq!(memory.write(range.start(), b"after!"), Ok(()));
    }

    #[test]
    #[cfg_attr(miri, ignore = "unmaps a part of a mapping")]
    fn what_was_not_allocated_here_is_not_touched() {
        let (memory, other) = (ProcessMemory::default(), ProcessMemory::default());
        let foreign = other.allocate(page().bytes(), page()).unwrap();
        assert_eq!(memory.free(foreign), Err(Errno::EINVAL));
        assert_eq!(memory.protect(foreign, Protection::None), Err(Errno::EINVAL));
        assert_eq!(memory.read(foreign.start(), &mut [0]), Err(Errno::EFAULT));
        assert_eq!(memory.write(foreign.start(), &[0]), Err(Errno::EFAULT));
        assert_eq!(memory.read(UserAddr(u64::MAX), &mut [0; 2]), Err(Errno::EFAULT));
        assert_eq!(memory.read(UserAddr(0), &mut []), Ok(()));
        assert_eq!(other.write(foreign.start(), &[1]), Ok(()));
    }

    #[test]
    #[cfg_attr(miri, ignore = "unmaps a part of a mapping")]
    fn parts_of_a_page_are_not_freed_or_protected() {
        let memory = ProcessMemory::default();
        let range = memory.allocate(2 * page().bytes(), page()).unwrap();
        for part in [sub(range, 1, page().bytes()), sub(range, 0, page().bytes() + 1), sub(range, 512, 512)] {
            assert_eq!(memory.free(part), Err(Errno::EINVAL));
            assert_eq!(memory.protect(part, Protection::None), Err(Errno::EINVAL));
        }
        assert_eq!(memory.write(range.start(), &vec![1; range.len() as usize]), Ok(()));
    }

    #[test]
    fn a_huge_page_is_one_piece() {
        let mut allocated = RangeMap::new();
        allocated.insert(0x20_0000..0x80_0000, PageShift::P2M);
        let range = |start, len| Range::new(UserAddr(start), len).unwrap();
        assert_eq!(check_pages(&allocated, range(0x40_0000, 0x20_0000)), Ok(()));
        assert_eq!(check_pages(&allocated, range(0x40_0000, 0x1_0000)), Err(Errno::EINVAL));
        assert_eq!(check_pages(&allocated, range(0x41_0000, 0x20_0000)), Err(Errno::EINVAL));
        allocated.insert(0x80_0000..0x81_0000, PageShift::P64K);
        assert_eq!(check_pages(&allocated, range(0x60_0000, 0x21_0000)), Ok(()));
    }
}
