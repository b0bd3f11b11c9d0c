//! The kernel state under the lock: open files, and which group is in which container
//! (`drivers/vfio/{container,group}.c`).

use super::spapr_tce::{Container, Driver, Kernel, Result};
use super::violation::Violation;
use crate::host::{Call, Errno, Fd, Node, Platform};
use crate::uapi::{eeh, spapr, vfio};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(super) enum File {
    Container(u32),
    Group(u32),
    Device { group: u32, index: usize },
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) kernel: Kernel,
    pub(super) containers: BTreeMap<u32, Container>,
    pub(super) files: BTreeMap<u32, File>,
    /// Numbers are never reused, so that the use of a closed file is detected.
    next: u32,
    pub(super) strict: bool,
}

impl State {
    pub(super) fn new(kernel: Kernel) -> Self {
        Self { kernel, containers: BTreeMap::new(), files: BTreeMap::new(), next: 3, strict: false }
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn file(&self, fd: Fd) -> Result<File> {
        self.files.get(&fd.0).cloned().ok_or(Errno::EBADF)
    }

    pub(super) fn open(&mut self, node: Node<'_>) -> Result<Fd> {
        let file = match node {
            Node::Container => {
                let id = self.number();
                self.containers.insert(id, Container { open: true, ..Container::default() });
                File::Container(id)
            }
            Node::Group(number) => {
                let group = self.kernel.groups.get_mut(&number.0).ok_or(Errno::ENOENT)?;
                if group.files != 0 {
                    return Err(Errno::EBUSY);
                }
                group.files = 1;
                File::Group(number.0)
            }
            Node::Device { group, name } => self.open_device(group, name)?,
        };
        let fd = Fd(self.number());
        self.files.insert(fd.0, file);
        Ok(fd)
    }

    fn open_device(&mut self, group: Fd, name: &str) -> Result<File> {
        let File::Group(number) = self.file(group)? else { return Err(Errno::ENOTTY) };
        let group = self.kernel.groups.get_mut(&number).ok_or(Errno::ENODEV)?;
        let index = group.position(name).ok_or(Errno::ENODEV)?;
        let container = group.container.and_then(|id| self.containers.get(&id));
        if container.is_none_or(|container| container.driver.is_none()) {
            return Err(Errno::EINVAL);
        }
        if group.devices[index].files == 0 {
            group.change_owner();
        }
        group.hold_device(index);
        Ok(File::Device { group: number, index })
    }

    /// Opens another file of an open device.
    pub(super) fn duplicate(&mut self, device: Fd) -> Result<Fd> {
        let file = self.file(device)?;
        if let File::Device { group, index } = file {
            self.kernel.groups.get_mut(&group).ok_or(Errno::ENODEV)?.hold_device(index);
        }
        let fd = Fd(self.number());
        self.files.insert(fd.0, file);
        Ok(fd)
    }

    pub(super) fn close(&mut self, fd: Fd) {
        match self.files.remove(&fd.0) {
            Some(File::Container(id)) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.open = false;
                }
                self.drop_unused(id);
            }
            Some(File::Group(number)) => self.close_group(number),
            Some(File::Device { group, index }) => {
                self.close_device(group, index);
                self.close_group(group);
            }
            None => {}
        }
    }

    fn close_device(&mut self, number: u32, index: usize) {
        let Some(group) = self.kernel.groups.get_mut(&number) else { return };
        group.device_files -= 1;
        let device = &mut group.devices[index];
        device.files -= 1;
        if device.files == 0 {
            group.change_owner();
            self.device_closed(number, index);
        }
    }

    /// Removes a group from its container when the last file that holds it is closed.
    fn close_group(&mut self, number: u32) {
        let Some(group) = self.kernel.groups.get_mut(&number) else { return };
        group.files -= 1;
        if group.files == 0 && group.container.is_some() {
            self.detach(number);
        }
    }

    /// Drops a container unless its file is open or groups are in it.
    fn drop_unused(&mut self, id: u32) {
        if self.containers.get(&id).is_some_and(|container| !container.open && container.groups.is_empty()) {
            self.containers.remove(&id);
        }
    }

    pub(super) fn call(&mut self, fd: Fd, call: &mut Call) -> Result {
        match self.file(fd)? {
            File::Container(id) => self.container_call(id, call),
            File::Group(number) => self.group_call(number, call),
            File::Device { group, index } => self.device_call(group, index, call),
        }
    }

    fn container_call(&mut self, id: u32, call: &mut Call) -> Result {
        let kernel = &mut self.kernel;
        let container = self.containers.get_mut(&id).ok_or(Errno::EBADF)?;
        match call {
            Call::GetApiVersion => Ok(vfio::API_VERSION),
            // The driver always says yes to both of its types.
            Call::CheckExtension(spapr::TCE_IOMMU | spapr::TCE_V2_IOMMU) => Ok(1),
            Call::CheckExtension(eeh::EXTENSION) => Ok((kernel.preset.platform() == Platform::Powernv).into()),
            Call::CheckExtension(_) => Ok(0),
            Call::SetIommu(kind) => container.set_iommu(kernel, *kind),
            call => container.driver.as_mut().ok_or(Errno::EINVAL)?.call(kernel, call),
        }
    }

    fn group_call(&mut self, number: u32, call: &mut Call) -> Result {
        let group = self.kernel.groups.get(&number).ok_or(Errno::EBADF)?;
        match call {
            Call::GroupGetStatus(status) => {
                if (status.argsz as usize) < size_of::<vfio::GroupStatus>() {
                    return Err(Errno::EINVAL);
                }
                status.flags = match (group.container, group.host_driver()) {
                    (Some(_), _) => vfio::GROUP_FLAGS_VIABLE | vfio::GROUP_FLAGS_CONTAINER_SET,
                    (None, None) => vfio::GROUP_FLAGS_VIABLE,
                    (None, Some(_)) => 0,
                };
                Ok(0)
            }
            Call::GroupSetContainer(fd) => {
                let fd = *fd;
                self.set_container(number, fd)
            }
            Call::GroupUnsetContainer if group.container.is_none() => Err(Errno::EINVAL),
            Call::GroupUnsetContainer if group.device_files != 0 => Err(Errno::EBUSY),
            Call::GroupUnsetContainer => {
                self.detach(number);
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn set_container(&mut self, number: u32, fd: Fd) -> Result {
        let file = self.file(fd)?;
        let group = self.kernel.groups.get_mut(&number).ok_or(Errno::EBADF)?;
        if group.container.is_some() {
            return Err(Errno::EINVAL);
        }
        let File::Container(id) = file else { return Err(Errno::EBADFD) };
        let container = self.containers.get_mut(&id).ok_or(Errno::EBADFD)?;
        if group.host_driver().is_some() {
            return Err(Errno::EPERM);
        }
        // From here on the device reaches nothing until there is a window.
        group.pe.take_ownership();
        if let Some(driver) = &mut container.driver
            && let Err(errno) = driver.attach(&mut self.kernel, number)
        {
            return Err(errno);
        }
        container.groups.insert(0, number);
        if let Some(group) = self.kernel.groups.get_mut(&number) {
            group.container = Some(id);
        }
        Ok(0)
    }

    fn detach(&mut self, number: u32) {
        let Some(id) = self.kernel.groups.get_mut(&number).and_then(|group| group.container.take()) else { return };
        let Some(container) = self.containers.get_mut(&id) else { return };
        container.groups.retain(|group| *group != number);
        if let Some(driver) = &mut container.driver {
            driver.detach(&mut self.kernel, number);
        }
        if container.groups.is_empty()
            && let Some(driver) = container.driver.take()
        {
            driver.release(&mut self.kernel);
        }
        self.drop_unused(id);
    }

    /// Closes every file, last opened first, as at the end of the process.
    pub(super) fn exit(&mut self) {
        while let Some((&fd, _)) = self.files.last_key_value() {
            self.close(Fd(fd));
        }
        let locked = self.kernel.process.locked.bytes();
        let regions: Vec<_> = self.kernel.regions.newest_first().iter().map(|region| region.user).collect();
        if locked != 0 || !regions.is_empty() {
            self.kernel.violations.push(Violation::LeftBehind { locked, regions });
        }
    }
}

impl Container {
    fn set_iommu(&mut self, kernel: &mut Kernel, kind: u32) -> Result {
        if self.groups.is_empty() || self.driver.is_some() {
            return Err(Errno::EINVAL);
        }
        let mut driver = match kind {
            spapr::TCE_IOMMU => Driver::new(false),
            spapr::TCE_V2_IOMMU => Driver::new(true),
            // The driver says yes to it as an extension, and then cannot open it as a type.
            eeh::EXTENSION if kernel.preset.platform() == Platform::Powernv => return Err(Errno::EINVAL),
            _ => return Err(Errno::ENODEV),
        };
        for group in &self.groups {
            if let Err(errno) = driver.attach(kernel, *group) {
                for attached in driver.groups.clone() {
                    driver.detach(kernel, attached);
                }
                return Err(errno);
            }
        }
        self.driver = Some(driver);
        Ok(0)
    }
}
