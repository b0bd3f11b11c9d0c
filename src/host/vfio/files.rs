//! The files of a host: the table of those that are open, and those that another process opened and
//! handed in.

use super::decode::Decode;
use crate::host::{Errno, Fd};
use crate::pci::Group;
use parking_lot::RwLock;
use slab::Slab;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// The kind of an open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Container,
    Group(Group),
    Device,
}

/// An open file; closed when the table and every call and region that uses it have dropped it.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) file: OwnedFd,
    pub(super) kind: Kind,
    /// Of a device: shared by all files of it.
    pub(super) decode: Arc<Decode>,
}

impl OpenFile {
    pub(super) fn new(file: OwnedFd, kind: Kind) -> Self {
        Self { file, kind, decode: Arc::default() }
    }
}

/// The table. An [`Fd`] is an index into it and is reused after it is closed, as the kernel's own
/// are.
#[derive(Debug, Default)]
pub(super) struct Files(RwLock<Slab<Arc<OpenFile>>>);

impl Files {
    pub(super) fn insert(&self, file: OwnedFd, kind: Kind) -> Result<Fd, Errno> {
        self.insert_open(OpenFile::new(file, kind))
    }

    pub(super) fn insert_open(&self, open: OpenFile) -> Result<Fd, Errno> {
        let mut files = self.0.write();
        let fd = u32::try_from(files.vacant_key()).map_err(|_| Errno::EMFILE)?;
        files.insert(Arc::new(open));
        Ok(Fd(fd))
    }

    /// Returns the file; a call that holds it is not disturbed by a concurrent `remove`.
    pub(super) fn get(&self, fd: Fd) -> Result<Arc<OpenFile>, Errno> {
        let files = self.0.read();
        files.get(fd.0 as usize).cloned().ok_or(Errno::EBADF)
    }

    pub(super) fn remove(&self, fd: Fd) {
        // The last close of a group clears its windows, which takes long, so it happens outside the
        // lock.
        let file = self.0.write().try_remove(fd.0 as usize);
        drop(file);
    }

    /// Returns whether that group is open here.
    pub(super) fn has_group(&self, number: Group) -> bool {
        let files = self.0.read();
        files.iter().any(|(_, open)| open.kind == Kind::Group(number))
    }
}

/// Files of VFIO for a process in a jail, which its launcher opened. Each is used once, where the
/// [`Host`](crate::host::Host) would open the node; nodes without such a file are opened as usual.
///
/// A group may be as it was opened, or in a container that has the sPAPR TCE v2 driver, as it must
/// be for the launcher to open devices of it. Nothing else may have been done with the container:
/// the kernel binds it to the process that first registers memory or makes a window, and refuses
/// all others.
///
/// A file is used up when what used it closes, as when a group is detached; the node is opened the
/// next time.
#[derive(Debug, Default)]
pub struct GivenFiles {
    containers: Vec<OwnedFd>,
    groups: BTreeMap<Group, OwnedFd>,
    devices: BTreeMap<String, OwnedFd>,
}

impl GivenFiles {
    /// Creates it without any files.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a file of `/dev/vfio/vfio`. Containers are used in the order they are added, one for
    /// each group that is attached. A group with open devices stays in the container it is in, so
    /// it must be attached when it is that container's turn: in which container a group is, the
    /// kernel does not say.
    pub fn with_container(mut self, file: OwnedFd) -> Self {
        self.containers.insert(0, file);
        self
    }

    /// Adds the file of a group.
    pub fn with_group(mut self, number: Group, file: OwnedFd) -> Self {
        self.groups.insert(number, file);
        self
    }

    /// Adds the file of a device (`VFIO_GROUP_GET_DEVICE_FD`), by its PCI address.
    pub fn with_device(mut self, address: &str, file: OwnedFd) -> Self {
        self.devices.insert(address.to_owned(), file);
        self
    }

    pub(super) fn container(&mut self) -> Option<OwnedFd> {
        self.containers.pop()
    }

    pub(super) fn group(&mut self, number: Group) -> Option<OwnedFd> {
        self.groups.remove(&number)
    }

    pub(super) fn device(&mut self, address: &str) -> Option<OwnedFd> {
        self.devices.remove(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    #[test]
    fn a_number_is_unknown_before_insert_and_after_remove() {
        let files = Files::default();
        assert_eq!(files.get(Fd(0)).unwrap_err(), Errno::EBADF);
        let fd = files.insert(file(), Kind::Group(Group(3))).unwrap();
        assert_eq!(files.get(fd).unwrap().kind, Kind::Group(Group(3)));
        assert!(files.has_group(Group(3)) && !files.has_group(Group(4)));
        files.remove(fd);
        files.remove(fd);
        files.remove(Fd(u32::MAX));
        assert_eq!(files.get(fd).unwrap_err(), Errno::EBADF);
        assert!(!files.has_group(Group(3)));
    }

    #[test]
    fn a_removed_file_lives_while_it_is_held() {
        let files = Files::default();
        let fd = files.insert(file(), Kind::Device).unwrap();
        let held = files.get(fd).unwrap();
        files.remove(fd);
        assert!(nix::sys::stat::fstat(&held.file).is_ok());
    }
}
