//! The VM of the running kernel.

use super::ioctl;
use super::seam::{KernelTable, Kvm, TableSpec};
use super::table::MappedTable;
use crate::host::Errno;
use crate::space::GroupFile;
use crate::uapi::kvm::{DEV_VFIO_GROUP_ADD, DEV_VFIO_GROUP_DEL};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// A VM that belongs to the VMM, by its file.
#[derive(Debug)]
pub struct Vm {
    vm: OwnedFd,
    device: OnceLock<OwnedFd>,
    /// The VFIO device that exists already, until it is taken for the one that is made.
    given: Mutex<Option<OwnedFd>>,
    tables: Mutex<BTreeMap<u32, Arc<MappedTable>>>,
}

impl Vm {
    /// Creates it from the VM's file (`KVM_CREATE_VM`), of which it keeps a duplicate.
    pub fn new(vm: BorrowedFd<'_>) -> Result<Self, Errno> {
        let vm =
            vm.try_clone_to_owned().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EBADF)))?;
        Ok(Self { vm, device: OnceLock::new(), given: Mutex::default(), tables: Mutex::default() })
    }

    /// The VM with that file, whose VFIO device (`KVM_CREATE_DEVICE`), of which a VM has one,
    /// exists already. Duplicates of both are kept.
    pub fn with_vfio_device(vm: BorrowedFd<'_>, device: BorrowedFd<'_>) -> Result<Self, Errno> {
        let device = device.try_clone_to_owned();
        let device = device.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EBADF)))?;
        Ok(Self { given: Mutex::new(Some(device)), ..Self::new(vm)? })
    }

    fn device(&self) -> Result<&OwnedFd, Errno> {
        self.device.get().ok_or(Errno::ENODEV)
    }
}

fn file(group: &GroupFile) -> Result<&OwnedFd, Errno> {
    group.file.as_ref().ok_or(Errno::EBADF)
}

impl Kvm for Vm {
    fn extension(&self, capability: u32) -> Result<i32, Errno> {
        ioctl::check_extension(&self.vm, capability)
    }

    fn enable_hcall(&self, number: u64) -> Result<(), Errno> {
        ioctl::enable_hcall(&self.vm, number)
    }

    fn create_device(&self) -> Result<(), Errno> {
        let given = self.given.lock().take();
        let device = given.map_or_else(|| ioctl::create_device(&self.vm), Ok)?;
        self.device.set(device).map_err(|_| Errno::EBUSY)
    }

    fn add_group(&self, group: &GroupFile) -> Result<(), Errno> {
        ioctl::set_group(self.device()?, DEV_VFIO_GROUP_ADD, file(group)?)
    }

    fn delete_group(&self, group: &GroupFile) -> Result<(), Errno> {
        ioctl::set_group(self.device()?, DEV_VFIO_GROUP_DEL, file(group)?)
    }

    fn create_table(&self, spec: &TableSpec) -> Result<Arc<dyn KernelTable>, Errno> {
        let mut tables = self.tables.lock();
        if tables.contains_key(&spec.liobn) {
            return Err(Errno::EBUSY);
        }
        let table = Arc::new(MappedTable::new(ioctl::create_table(&self.vm, spec)?, spec.entries())?);
        tables.insert(spec.liobn, Arc::clone(&table));
        Ok(table)
    }

    fn attach_table(&self, group: &GroupFile, liobn: u32) -> Result<(), Errno> {
        let table = self.tables.lock().get(&liobn).cloned().ok_or(Errno::EBADF)?;
        table.with_file(|table| ioctl::set_spapr_tce(self.device()?, file(group)?, table))
    }

    fn close_table(&self, liobn: u32) {
        let table = self.tables.lock().remove(&liobn);
        if let Some(table) = table {
            table.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

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
}
