//! Files that another process opened and handed in.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

/// Files of VFIO for a process in a jail, that its launcher opened: used, each once, where the
/// [`Host`](crate::host::Host) would open the node; nodes for which there is none are opened as
/// ever.
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
    groups: BTreeMap<u32, OwnedFd>,
    devices: BTreeMap<String, OwnedFd>,
}

impl GivenFiles {
    /// No files yet.
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
    pub fn with_group(mut self, number: u32, file: OwnedFd) -> Self {
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

    pub(super) fn group(&mut self, number: u32) -> Option<OwnedFd> {
        self.groups.remove(&number)
    }

    pub(super) fn device(&mut self, address: &str) -> Option<OwnedFd> {
        self.devices.remove(address)
    }
}
