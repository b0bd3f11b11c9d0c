//! Devices of an attached group.

use super::member::Member;
use super::{AddressSpace, AttachError, Inner};
use crate::host::calls::{self, CallError};
use crate::host::{Errno, Fd, File, Host, Node, Region};
use crate::uapi::vfio::{DeviceInfo, RegionInfo};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A device of an attached group. The space, and the group in it, stay while it is open.
#[derive(Debug)]
pub struct Device {
    file: File,
    group: u32,
    keep: Keep,
}

/// Keeps alive what a device's handles need.
#[derive(Clone, Debug)]
struct Keep {
    /// Counted by the group, which cannot be detached before it is dropped.
    _group: Arc<()>,
    space: Arc<Inner>,
}

/// A region of a device: a BAR, or its configuration space.
pub struct DeviceRegion {
    region: Box<dyn Region>,
    _keep: Keep,
}

impl core::fmt::Debug for DeviceRegion {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "DeviceRegion({:#x} bytes)", self.region.size())
    }
}

impl core::ops::Deref for DeviceRegion {
    type Target = dyn Region;

    fn deref(&self) -> &Self::Target {
        self.region.as_ref()
    }
}

/// A driver's claim on a device: no other driver has it in its space until this is dropped.
#[derive(Debug)]
pub(crate) struct Driven {
    address: String,
    space: Arc<Inner>,
}

impl Drop for Driven {
    fn drop(&mut self) {
        self.space.driven.lock().remove(&self.address);
    }
}

/// The file of an attached group, for KVM.
///
/// It keeps the group open: drop it before the group is detached, or the group stays busy.
#[derive(Debug)]
pub struct GroupFile {
    /// Group number.
    pub number: u32,
    /// The file; `None` if the host has no files, as with a model.
    pub file: Option<OwnedFd>,
}

impl AddressSpace {
    /// Returns the file of an attached group, for KVM, which must know it before the group's
    /// devices are opened; refused while any is open.
    pub fn group_file(&self, group: u32) -> Result<GroupFile, AttachError> {
        let state = &self.0.state.lock().state;
        let found = state.members.iter().find_map(|member| member.group(group));
        let Some(member) = found else { return Err(AttachError::NotAttached { group }) };
        match Arc::strong_count(&member.devices) - 1 {
            0 => Ok(GroupFile { number: group, file: self.host().file(member.file.fd()) }),
            count => Err(AttachError::DevicesOpen { group, count }),
        }
    }

    /// Claims a device for a driver; `None` while another driver has it.
    pub(crate) fn drive(&self, address: &str) -> Option<Driven> {
        let new = self.0.driven.lock().insert(address.into());
        new.then(|| Driven { address: address.into(), space: Arc::clone(&self.0) })
    }

    /// Opens a device of an attached group by its PCI address, `0000:00:00.0`.
    pub fn device(&self, group: u32, address: &str) -> Result<Device, AttachError> {
        let state = &self.0.state.lock().state;
        let found = state.members.iter().find_map(|member| member.group(group));
        let Some(member) = found else { return Err(AttachError::NotAttached { group }) };
        let node = Node::Device { group: member.file.fd(), name: address };
        let file = File::open(self.0.registry.host(), node)
            .map_err(|errno| AttachError::Open { what: format!("device {address} of group {group}"), errno })?;
        Ok(Device { file, group, keep: Keep { _group: Arc::clone(&member.devices), space: Arc::clone(&self.0) } })
    }
}

impl Device {
    /// Returns the number of its group.
    pub fn group(&self) -> u32 {
        self.group
    }

    pub(crate) fn host(&self) -> &Arc<dyn Host> {
        self.file.host()
    }

    pub(crate) fn fd(&self) -> Fd {
        self.file.fd()
    }

    /// Returns the container of its group, and the other groups in it. The container stays open
    /// while the device is.
    pub(crate) fn container(&self) -> (Fd, Vec<u32>) {
        let state = &self.keep.space.state.lock().state;
        let found = state.members.iter().find(|member| member.group(self.group).is_some());
        let groups =
            |member: &Member| member.groups.iter().map(|group| group.number).filter(|n| *n != self.group).collect();
        // An open device keeps its group attached, so there always is one.
        found.map_or((self.file.fd(), Vec::new()), |member| (member.fd(), groups(member)))
    }

    /// `VFIO_DEVICE_GET_INFO`.
    pub fn info(&self) -> Result<DeviceInfo, CallError> {
        calls::device_info(self.file.host().as_ref(), self.file.fd())
    }

    /// `VFIO_DEVICE_GET_REGION_INFO`.
    pub fn region_info(&self, index: u32) -> Result<RegionInfo, CallError> {
        calls::device_region_info(self.file.host().as_ref(), self.file.fd(), index)
    }

    /// `VFIO_DEVICE_RESET`.
    pub fn reset(&self) -> Result<(), CallError> {
        calls::device_reset(self.file.host().as_ref(), self.file.fd())
    }

    /// Opens region `index` for access.
    pub fn region(&self, index: u32) -> Result<DeviceRegion, Errno> {
        let region = self.file.host().region(self.file.fd(), index)?;
        Ok(DeviceRegion { region, _keep: self.keep.clone() })
    }
}
