//! Devices of an attached group.

use super::container::Container;
use super::{AddressSpace, AttachError, Inner};
use crate::host::calls::{self, CallError, Failure};
use crate::host::{Call, Errno, Fd, File, Host, MappedArea, Node, Region, RegionArea};
use crate::uapi::vfio::{DeviceInfo, PCI_CONFIG_REGION_INDEX, RegionInfo};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// A device of an attached group. The space, and the group in it, stay while it is open.
///
/// While a driver has the device as a [`device::Device`](crate::device::Device), this one only
/// looks: its configuration space is not written and it is not reset, which would change bus
/// mastering or memory decode without the driver's knowledge.
pub struct Device {
    file: File,
    group: u32,
    address: Arc<str>,
    /// A driver has it, by this handle.
    owned: bool,
    /// The same file again, for [`Self::file`].
    shown: OnceLock<Option<OwnedFd>>,
    keep: Keep,
}

impl core::fmt::Debug for Device {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Device({} of group {})", self.address, self.group)
    }
}

/// What a device's handles keep alive.
#[derive(Clone)]
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

/// The configuration space as a handle has it that is not the driver's.
struct GuardedConfig {
    region: Box<dyn Region>,
    address: Arc<str>,
    space: Arc<Inner>,
}

impl Region for GuardedConfig {
    fn size(&self) -> u64 {
        self.region.size()
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.region.read(offset, data)
    }

    /// `EBUSY` while a driver has the device.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        // KvmPins meanwhile: nobody becomes the driver before the write has arrived.
        let driven = self.space.driven.lock();
        if driven.contains(&*self.address) { Err(Errno::EBUSY) } else { self.region.write(offset, data) }
    }
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

/// A part of a region that is mapped; derefs to where it is. The space, and the group in it, stay
/// while it is held.
pub struct DeviceArea {
    area: MappedArea,
    _keep: Keep,
}

impl core::fmt::Debug for DeviceArea {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "DeviceArea({:#x} bytes at {:#x})", self.area.len(), self.area.offset())
    }
}

impl core::ops::Deref for DeviceArea {
    type Target = MappedArea;

    fn deref(&self) -> &MappedArea {
        &self.area
    }
}

/// Whoever drives a device: the only one in its space, until this is dropped.
#[derive(Debug)]
pub(crate) struct Driven {
    address: String,
    space: Arc<Inner>,
}

impl Drop for Driven {
    fn drop(&mut self) {
        if !self.space.process.is_current() {
            return;
        }
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
        let found = state.containers.iter().find_map(|container| container.group(group));
        let Some(container) = found else { return Err(AttachError::NotAttached { group }) };
        match Arc::strong_count(&container.devices) - 1 {
            0 => Ok(GroupFile { number: group, file: self.host().file(container.file.fd()) }),
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
        self.open_device(group, address, false)
    }

    /// Opens a device for whoever [drives](Self::drive) it.
    pub(crate) fn driven_device(&self, group: u32, driven: &Driven) -> Result<Device, AttachError> {
        self.open_device(group, &driven.address, true)
    }

    fn open_device(&self, group: u32, address: &str, owned: bool) -> Result<Device, AttachError> {
        let state = &self.0.state.lock().state;
        let found = state.containers.iter().find_map(|container| container.group(group));
        let Some(container) = found else { return Err(AttachError::NotAttached { group }) };
        let node = Node::Device { group: container.file.fd(), name: address };
        let file = File::open(self.0.registry.host(), node)
            .map_err(|errno| AttachError::Open { what: format!("device {address} of group {group}"), errno })?;
        let keep = Keep { _group: Arc::clone(&container.devices), space: Arc::clone(&self.0) };
        Ok(Device { file, group, address: address.into(), owned, shown: OnceLock::new(), keep })
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
        let found = state.containers.iter().find(|container| container.group(self.group).is_some());
        let groups = |container: &Container| {
            container.groups.iter().map(|group| group.number).filter(|n| *n != self.group).collect()
        };
        // An open device keeps its group attached, so there always is one.
        found.map_or((self.file.fd(), Vec::new()), |container| (container.fd(), groups(container)))
    }

    /// `VFIO_DEVICE_GET_INFO`.
    pub fn info(&self) -> Result<DeviceInfo, CallError> {
        calls::device_info(self.file.host().as_ref(), self.file.fd())
    }

    /// `VFIO_DEVICE_GET_REGION_INFO`.
    pub fn region_info(&self, index: u32) -> Result<RegionInfo, CallError> {
        calls::device_region_info(self.file.host().as_ref(), self.file.fd(), index)
    }

    /// `VFIO_DEVICE_RESET`; `EBUSY` while a driver has the device.
    pub fn reset(&self) -> Result<(), CallError> {
        let driven = self.keep.space.driven.lock();
        if !self.owned && driven.contains(&*self.address) {
            return Err(CallError { call: Call::DeviceReset, failure: Failure::Errno(Errno::EBUSY) });
        }
        // Others need not wait for the reset of a driver's own device.
        let _driven = (!self.owned).then_some(driven);
        calls::device_reset(self.file.host().as_ref(), self.file.fd())
    }

    /// The device's file, for interfaces of the kernel that take it; `None` where the host has no
    /// files, as a model.
    ///
    /// What is written to the file goes past all that this library guards: with memory decode
    /// turned off that way, the next access to a BAR ends the process.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        let file = self.shown.get_or_init(|| self.file.host().file(self.file.fd()));
        file.as_ref().map(AsFd::as_fd)
    }

    /// The parts of region `index` that can be mapped into the process; none on a model.
    pub fn areas(&self, index: u32) -> Result<Vec<RegionArea>, Errno> {
        self.file.host().areas(self.file.fd(), index)
    }

    /// Maps one of the [`areas`](Self::areas) of region `index`; `EINVAL` for any other.
    pub fn map_area(&self, index: u32, area: RegionArea) -> Result<DeviceArea, Errno> {
        let area = self.file.host().map_area(self.file.fd(), index, area)?;
        Ok(DeviceArea { area, _keep: self.keep.clone() })
    }

    /// Opens region `index` for access. Of the configuration space only reading is allowed while a
    /// driver has the device: `EBUSY`.
    pub fn region(&self, index: u32) -> Result<DeviceRegion, Errno> {
        let mut region = self.file.host().region(self.file.fd(), index)?;
        if index == PCI_CONFIG_REGION_INDEX && !self.owned {
            let (address, space) = (Arc::clone(&self.address), Arc::clone(&self.keep.space));
            region = Box::new(GuardedConfig { region, address, space });
        }
        Ok(DeviceRegion { region, _keep: self.keep.clone() })
    }
}
