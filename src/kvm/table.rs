//! A view of a table the kernel keeps: a native-endian TCE for each page, shared with the kernel.
//!
//! The view keeps the table open, so closing replaces it with anonymous memory in the same place:
//! readers need not know and see zeros. Reads are lock-free.
#![allow(unsafe_code, reason = "the table is the kernel's memory")]

use super::seam::KernelTable;
use crate::host::Errno;
use core::ffi::c_void;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use parking_lot::Mutex;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// A mapped table.
#[derive(Debug)]
pub(super) struct MappedTable {
    base: NonNull<c_void>,
    len: NonZeroUsize,
    entries: u64,
    /// `None` once closed.
    file: Mutex<Option<OwnedFd>>,
}

// SAFETY: the mapping belongs to this object alone; it is only accessed through atomics, and shared
// with the kernel.
unsafe impl Send for MappedTable {}
// SAFETY: as above.
unsafe impl Sync for MappedTable {}

const READ_WRITE: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);

impl MappedTable {
    /// Maps a table of `entries`; the kernel sizes it in whole pages.
    pub(super) fn new(file: OwnedFd, entries: u64) -> Result<Self, Errno> {
        let bytes = entries.checked_mul(8).and_then(|bytes| usize::try_from(bytes).ok());
        let len = bytes.and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping where the kernel finds room replaces none.
        let base = unsafe { mmap(None, len, READ_WRITE, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Self { base, len, entries, file: Mutex::new(Some(file)) })
    }

    /// Runs `f` with the table's file; `EBADF` after it was closed.
    pub(super) fn with_file<R>(&self, f: impl FnOnce(&OwnedFd) -> Result<R, Errno>) -> Result<R, Errno> {
        f(self.file.lock().as_ref().ok_or(Errno::EBADF)?)
    }

    /// Closes the table and leaves zeros in its place.
    pub(super) fn close(&self) {
        let file = self.file.lock().take();
        if file.is_none() {
            return;
        }
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
        // SAFETY: replaces the mapping that `new` made, whole and in one step; atomics at the same
        // addresses remain valid.
        if let Err(errno) = unsafe { mmap_anonymous(Some(self.base.addr()), self.len, READ_WRITE, flags) } {
            tracing::warn!(%errno, "the view of a closed TCE table stays, and keeps it open");
        }
    }

    fn entry(&self, index: u64) -> Option<&AtomicU64> {
        if index >= self.entries {
            return None;
        }
        // SAFETY: the mapping has `entries` words and begins at a page; all accesses to it are
        // atomic.
        Some(unsafe { self.base.cast::<AtomicU64>().add(index as usize).as_ref() })
    }
}

impl KernelTable for MappedTable {
    fn entries(&self) -> u64 {
        self.entries
    }

    fn load(&self, index: u64) -> u64 {
        self.entry(index).map_or(0, |entry| entry.load(Ordering::Relaxed))
    }

    fn store(&self, index: u64, tce: u64) {
        if let Some(entry) = self.entry(index) {
            entry.store(tce, Ordering::Relaxed);
        }
    }
}

impl Drop for MappedTable {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, or what `close` put in its place; nothing refers to
        // it any longer.
        let _ = unsafe { munmap(self.base, self.len.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    /// Creates a file that stands in for a table.
    fn table(entries: u64) -> (File, MappedTable) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(entries * 8).unwrap();
        (file.try_clone().unwrap(), MappedTable::new(file.into(), entries).unwrap())
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn entries_are_native_words_of_the_file_and_end_where_the_table_does() {
        let (file, table) = table(600);
        table.store(599, 0x1234_5003);
        let mut word = [0; 8];
        file.read_exact_at(&mut word, 599 * 8).unwrap();
        assert_eq!(u64::from_ne_bytes(word), 0x1234_5003);
        file.write_all_at(&7_u64.to_ne_bytes(), 8).unwrap();
        assert_eq!((table.load(1), table.load(599), table.entries()), (7, 0x1234_5003, 600));
        for behind in [600, 8192, u64::MAX] {
            table.store(behind, 1);
            assert_eq!(table.load(behind), 0);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_closed_table_reads_as_zeros_and_does_not_reach_the_file() {
        let (file, table) = table(8);
        table.store(0, 3);
        table.close();
        table.close();
        assert_eq!(table.load(0), 0);
        table.store(1, 5);
        let mut words = [0; 16];
        file.read_exact_at(&mut words, 0).unwrap();
        assert_eq!((words[..8].to_vec(), words[8..].to_vec()), (3_u64.to_ne_bytes().to_vec(), vec![0; 8]));
        assert_eq!(table.with_file(|_| Ok(())), Err(Errno::EBADF));
    }

    #[test]
    fn a_table_without_entries_and_one_larger_than_memory_are_refused() {
        for entries in [0, u64::MAX, 1 << 61] {
            assert!(MappedTable::new(tempfile::tempfile().unwrap().into(), entries).is_err());
        }
    }
}
