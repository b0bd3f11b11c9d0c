//! The VM of the running kernel: the ioctls of KVM, and views of the tables it keeps.
#![allow(unsafe_code, reason = "the kernel takes addresses of structures, and shares its tables")]

use super::acceleration::{KernelTable, Kvm, TableSpec};
use crate::addr::Liobn;
use crate::host::Errno;
use crate::space::GroupFile;
use crate::uapi::kvm::{
    CAP_PPC_ENABLE_HCALL, CHECK_EXTENSION, CREATE_DEVICE, CREATE_SPAPR_TCE_64, CreateDevice, CreateSpaprTce64,
    DEV_TYPE_VFIO, DEV_VFIO_GROUP, DEV_VFIO_GROUP_ADD, DEV_VFIO_GROUP_DEL, DEV_VFIO_GROUP_SET_SPAPR_TCE, DeviceAttr,
    ENABLE_CAP, EnableCap, SET_DEVICE_ATTR, VfioSpaprTce,
};
use core::ffi::c_void;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// A VM that belongs to the VMM, by its file.
#[derive(Debug)]
pub struct Vm {
    vm: OwnedFd,
    device: OnceLock<OwnedFd>,
    /// The VMM's own VFIO device, until `create_device` takes it.
    given: Mutex<Option<OwnedFd>>,
    tables: Mutex<BTreeMap<Liobn, Arc<MappedTable>>>,
}

impl Vm {
    /// Creates it from the VM's file (`KVM_CREATE_VM`), of which it keeps a duplicate.
    pub fn new(vm: BorrowedFd<'_>) -> Result<Self, Errno> {
        Ok(Self { vm: duplicate(vm)?, device: OnceLock::new(), given: Mutex::default(), tables: Mutex::default() })
    }

    /// Does the same for a VM that already has its one VFIO device (`KVM_CREATE_DEVICE`), whose
    /// file is `device`. It keeps duplicates of both.
    pub fn with_vfio_device(vm: BorrowedFd<'_>, device: BorrowedFd<'_>) -> Result<Self, Errno> {
        Ok(Self { given: Mutex::new(Some(duplicate(device)?)), ..Self::new(vm)? })
    }

    fn device(&self) -> Result<&OwnedFd, Errno> {
        self.device.get().ok_or(Errno::ENODEV)
    }
}

fn duplicate(file: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    // The error of a system call always has a number.
    file.try_clone_to_owned().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EBADF)))
}

fn file(group: &GroupFile) -> Result<&OwnedFd, Errno> {
    group.file.as_ref().ok_or(Errno::EBADF)
}

impl Kvm for Vm {
    fn extension(&self, capability: u32) -> Result<i32, Errno> {
        check_extension(&self.vm, capability)
    }

    fn enable_hcall(&self, number: u64) -> Result<(), Errno> {
        enable_hcall(&self.vm, number)
    }

    fn create_device(&self) -> Result<(), Errno> {
        let given = self.given.lock().take();
        let device = given.map_or_else(|| create_device(&self.vm), Ok)?;
        self.device.set(device).map_err(|_| Errno::EBUSY)
    }

    fn add_group(&self, group: &GroupFile) -> Result<(), Errno> {
        set_group(self.device()?, DEV_VFIO_GROUP_ADD, file(group)?)
    }

    fn delete_group(&self, group: &GroupFile) -> Result<(), Errno> {
        set_group(self.device()?, DEV_VFIO_GROUP_DEL, file(group)?)
    }

    fn create_table(&self, spec: &TableSpec) -> Result<Arc<dyn KernelTable>, Errno> {
        let mut tables = self.tables.lock();
        if tables.contains_key(&spec.liobn) {
            return Err(Errno::EBUSY);
        }
        let table = Arc::new(MappedTable::new(create_table(&self.vm, spec)?, spec.entries())?);
        tables.insert(spec.liobn, Arc::clone(&table));
        Ok(table)
    }

    fn attach_table(&self, group: &GroupFile, liobn: Liobn) -> Result<(), Errno> {
        let table = self.tables.lock().get(&liobn).cloned().ok_or(Errno::EBADF)?;
        table.with_file(|table| set_spapr_tce(self.device()?, file(group)?, table))
    }

    fn close_table(&self, liobn: Liobn) {
        let table = self.tables.lock().remove(&liobn);
        if let Some(table) = table {
            table.close();
        }
    }
}

/// A view of a table the kernel keeps: a native-endian TCE for each page, shared with the kernel.
///
/// The view keeps the table open, so closing replaces it with anonymous memory in the same place:
/// readers see zeros from then on. Reads are lock-free.
#[derive(Debug)]
struct MappedTable {
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
    fn new(file: OwnedFd, entries: u64) -> Result<Self, Errno> {
        let bytes = entries.checked_mul(8).and_then(|bytes| usize::try_from(bytes).ok());
        let len = bytes.and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping where the kernel finds room replaces none.
        let base = unsafe { mmap(None, len, READ_WRITE, MapFlags::MAP_SHARED, &file, 0) }?;
        Ok(Self { base, len, entries, file: Mutex::new(Some(file)) })
    }

    /// Runs `f` with the table's file; `EBADF` after it was closed.
    fn with_file<R>(&self, f: impl FnOnce(&OwnedFd) -> Result<R, Errno>) -> Result<R, Errno> {
        f(self.file.lock().as_ref().ok_or(Errno::EBADF)?)
    }

    /// Closes the table and leaves zeros in its place.
    fn close(&self) {
        let file = self.file.lock().take();
        if file.is_none() {
            return;
        }
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED | MapFlags::MAP_NORESERVE;
        // SAFETY: replaces the mapping that `new` made, whole and in one step; atomics at the same
        // addresses remain valid.
        if let Err(errno) = unsafe { mmap_anonymous(Some(self.base.addr()), self.len, READ_WRITE, flags) } {
            tracing::warn!(%errno, "the view of a closed TCE table could not be replaced and keeps it open");
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

fn check_extension(vm: &OwnedFd, capability: u32) -> Result<i32, Errno> {
    // SAFETY: this number takes no address, so the kernel touches no memory of ours.
    Errno::result(unsafe { libc::ioctl(vm.as_raw_fd(), CHECK_EXTENSION, libc::c_ulong::from(capability)) })
}

fn enable_hcall(vm: &OwnedFd, number: u64) -> Result<(), Errno> {
    let capability = EnableCap { cap: CAP_PPC_ENABLE_HCALL, flags: 0, args: [number, 1, 0, 0], pad: [0; 64] };
    // SAFETY: the kernel reads a structure of that type, which outlives the call.
    Errno::result(unsafe { libc::ioctl(vm.as_raw_fd(), ENABLE_CAP, &raw const capability) }).map(drop)
}

/// `KVM_CREATE_DEVICE` of the VFIO device. The kernel opens the file `O_CLOEXEC`.
fn create_device(vm: &OwnedFd) -> Result<OwnedFd, Errno> {
    let mut device = CreateDevice { kind: DEV_TYPE_VFIO, ..Default::default() };
    // SAFETY: the kernel reads and writes a structure of that type, which outlives the call.
    Errno::result(unsafe { libc::ioctl(vm.as_raw_fd(), CREATE_DEVICE, &raw mut device) })?;
    let raw = i32::try_from(device.fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just opened this file for us; nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `KVM_CREATE_SPAPR_TCE_64`. The kernel opens the file `O_CLOEXEC`.
fn create_table(vm: &OwnedFd, spec: &TableSpec) -> Result<OwnedFd, Errno> {
    let table = CreateSpaprTce64 {
        liobn: spec.liobn.0.into(),
        page_shift: spec.page.get(),
        flags: 0,
        offset: spec.window.start().0 >> spec.page.get(),
        size: spec.entries(),
    };
    // SAFETY: the kernel reads a structure of that type, which outlives the call.
    let raw = Errno::result(unsafe { libc::ioctl(vm.as_raw_fd(), CREATE_SPAPR_TCE_64, &raw const table) })?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// `KVM_DEV_VFIO_GROUP_ADD` or `_DEL`.
fn set_group(device: &OwnedFd, attr: u64, group: &OwnedFd) -> Result<(), Errno> {
    set_attr(device, attr, &group.as_raw_fd())
}

/// `KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE`.
fn set_spapr_tce(device: &OwnedFd, group: &OwnedFd, table: &OwnedFd) -> Result<(), Errno> {
    let pair = VfioSpaprTce { groupfd: group.as_raw_fd(), tablefd: table.as_raw_fd() };
    set_attr(device, DEV_VFIO_GROUP_SET_SPAPR_TCE, &pair)
}

/// The value that an attribute of the VFIO device takes.
///
/// # Safety
/// The type must be the one the kernel reads for the attributes it is passed with.
unsafe trait Attribute {}

// SAFETY: a file's number, for ADD and DEL (`kvm_vfio_file_add`, `kvm_vfio_file_del`).
unsafe impl Attribute for i32 {}
// SAFETY: for SET_SPAPR_TCE (`kvm_vfio_file_set_spapr_tce`).
unsafe impl Attribute for VfioSpaprTce {}

fn set_attr<T: Attribute>(device: &OwnedFd, attr: u64, value: &T) -> Result<(), Errno> {
    let addr = std::ptr::from_ref(value).expose_provenance() as u64;
    let attr = DeviceAttr { flags: 0, group: DEV_VFIO_GROUP, attr, addr };
    // SAFETY: the kernel reads a structure of that type, and at its address what the attribute
    // takes; both outlive the call.
    Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), SET_DEVICE_ATTR, &raw const attr) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{Iova, IovaRange, PageShift};
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;

    #[test]
    #[cfg_attr(miri, ignore = "makes ioctls")]
    fn a_vfio_device_that_was_handed_in_is_used_once() {
        let file = || OwnedFd::from(tempfile::tempfile().unwrap());
        let (vm, device) = (file(), file());
        let without = Vm::new(vm.as_fd()).unwrap();
        assert_eq!(without.create_device(), Err(Errno::ENOTTY), "a plain file makes no devices");
        let with = Vm::with_vfio_device(vm.as_fd(), device.as_fd()).unwrap();
        with.create_device().unwrap();
        let inode = |file: &OwnedFd| nix::sys::stat::fstat(file).unwrap().st_ino;
        assert_eq!(inode(with.device().unwrap()), inode(&device));
        assert_eq!(with.create_device(), Err(Errno::ENOTTY), "there is one");
    }

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
        for past in [600, 8192, u64::MAX] {
            table.store(past, 1);
            assert_eq!(table.load(past), 0);
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

    #[test]
    #[cfg_attr(miri, ignore = "makes ioctls")]
    fn every_call_reaches_the_kernel_and_brings_its_errno_back() {
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        let window = IovaRange::new(Iova(0), 1 << 30).unwrap();
        let spec = TableSpec { liobn: Liobn(1), window, page: PageShift::P4K };
        assert_eq!(check_extension(&file, 125).err(), Some(Errno::ENOTTY));
        assert_eq!(enable_hcall(&file, 0x20), Err(Errno::ENOTTY));
        assert_eq!(create_device(&file).err(), Some(Errno::ENOTTY));
        assert_eq!(create_table(&file, &spec).err(), Some(Errno::ENOTTY));
        assert_eq!(set_group(&file, 1, &file), Err(Errno::ENOTTY));
        assert_eq!(set_spapr_tce(&file, &file, &file), Err(Errno::ENOTTY));
    }
}
