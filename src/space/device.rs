//! Devices of an attached group.

use super::{AddressSpace, AttachError, Inner};
use crate::host::calls::{self, CallError, Failure};
use crate::host::{Call, Errno, Fd, File, Host, MappedArea, Node, Region, RegionArea};
use crate::pci::Group;
use crate::uapi::vfio::{DeviceInfo, PCI_CONFIG_REGION_INDEX, RegionInfo};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// A device of an attached group as VFIO has it: its file and regions. The space and the group stay
/// while it is open.
///
/// While a driver has the device as a [`device::Device`](crate::device::Device), this handle only
/// reads: it neither writes the configuration space nor resets the device, which would change bus
/// mastering or memory decode without the driver's knowledge.
pub struct RawDevice {
    file: File,
    group: Group,
    /// The group's container, which stays open while the device is.
    container: Fd,
    address: Arc<str>,
    /// Whether this is the driver's own handle.
    owned: bool,
    /// A duplicate of the file, for [`Self::file`].
    shown: OnceLock<Option<OwnedFd>>,
    keep: Keep,
}

impl core::fmt::Debug for RawDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "RawDevice({} of group {})", self.address, self.group)
    }
}

/// Keeps the group and the space of a device alive.
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

/// The configuration space of a handle that is not the driver's.
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
        // Held during the write: nobody becomes the driver before it has arrived.
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

/// A mapped part of a region; derefs to the mapping. The space and the group stay while it is held.
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

/// A driver's exclusive claim on a device in its space, until it is dropped.
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
    pub number: Group,
    /// The file; `None` on a host without files, such as a model.
    pub file: Option<OwnedFd>,
}

impl AddressSpace {
    /// Returns the file of an attached group, for KVM, which must know it before the group's
    /// devices are opened; refused while any is open.
    pub fn group_file(&self, group: Group) -> Result<GroupFile, AttachError> {
        let state = &self.0.state.lock().state;
        let found = state.containers.iter().find_map(|container| container.group(group));
        let Some(attached) = found else { return Err(AttachError::NotAttached { group }) };
        match attached.open_devices() {
            0 => Ok(GroupFile { number: group, file: self.host().file(attached.file.fd()) }),
            count => Err(AttachError::DevicesOpen { group, count }),
        }
    }

    /// Claims a device for a driver; `None` while another driver has it.
    pub(crate) fn drive(&self, address: &str) -> Option<Driven> {
        let new = self.0.driven.lock().insert(address.into());
        new.then(|| Driven { address: address.into(), space: Arc::clone(&self.0) })
    }

    /// Opens a device of an attached group by its PCI address, `0000:00:00.0`.
    pub fn device(&self, group: Group, address: &str) -> Result<RawDevice, AttachError> {
        self.open_device(group, address, false)
    }

    /// Opens a device for the driver that [claimed](Self::drive) it.
    pub(crate) fn driven_device(&self, group: Group, driven: &Driven) -> Result<RawDevice, AttachError> {
        self.open_device(group, &driven.address, true)
    }

    fn open_device(&self, group: Group, address: &str, owned: bool) -> Result<RawDevice, AttachError> {
        let state = &self.0.state.lock().state;
        let found = state.containers.iter().find_map(|container| Some((container.fd(), container.group(group)?)));
        let Some((container, attached)) = found else { return Err(AttachError::NotAttached { group }) };
        let node = Node::Device { group: attached.file.fd(), name: address };
        let file = File::open(self.0.registry.host(), node)
            .map_err(|errno| AttachError::Open { what: format!("device {address} of group {group}"), errno })?;
        let keep = Keep { _group: Arc::clone(&attached.devices), space: Arc::clone(&self.0) };
        Ok(RawDevice { file, group, container, address: address.into(), owned, shown: OnceLock::new(), keep })
    }
}

impl RawDevice {
    /// Returns the number of its group.
    pub fn group(&self) -> Group {
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
    pub(crate) fn container(&self) -> (Fd, Vec<Group>) {
        let state = &self.keep.space.state.lock().state;
        let shared = state.containers.iter().filter(|container| container.fd() == self.container);
        let groups = shared.flat_map(|container| &container.groups).map(|group| group.number);
        (self.container, groups.filter(|number| *number != self.group).collect())
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
            return Err(CallError::new(Call::DeviceReset, Failure::Errno(Errno::EBUSY)));
        }
        // Other handles need not wait while a driver resets its own device.
        let _driven = (!self.owned).then_some(driven);
        calls::device_reset(self.file.host().as_ref(), self.file.fd())
    }

    /// Returns the device's file, for kernel interfaces that take it; `None` on a host without
    /// files, such as a model.
    ///
    /// Writes to the file bypass all checks of this library: with memory decode turned off that
    /// way, the next access to a BAR kills the process.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        let file = self.shown.get_or_init(|| self.file.host().file(self.file.fd()));
        file.as_ref().map(AsFd::as_fd)
    }

    /// Returns the parts of region `index` that can be mapped into the process; none on a model.
    pub fn areas(&self, index: u32) -> Result<Vec<RegionArea>, Errno> {
        self.file.host().areas(self.file.fd(), index)
    }

    /// Maps one of the [`areas`](Self::areas) of region `index`; `EINVAL` for any other.
    pub fn map_area(&self, index: u32, area: RegionArea) -> Result<DeviceArea, Errno> {
        let area = self.file.host().map_area(self.file.fd(), index, area)?;
        Ok(DeviceArea { area, _keep: self.keep.clone() })
    }

    /// Opens region `index` for access. Writes to the configuration space fail with `EBUSY` while a
    /// driver has the device.
    pub fn region(&self, index: u32) -> Result<DeviceRegion, Errno> {
        let mut region = self.file.host().region(self.file.fd(), index)?;
        if index == PCI_CONFIG_REGION_INDEX && !self.owned {
            let (address, space) = (Arc::clone(&self.address), Arc::clone(&self.keep.space));
            region = Box::new(GuardedConfig { region, address, space });
        }
        Ok(DeviceRegion { region, _keep: self.keep.clone() })
    }
}
