//! An IOMMU group and its devices.

use super::edu::Edu;
use super::pci::Slot;
use super::platform::Pe;
use crate::host::{GroupFacts, PciDevice};
use crate::uapi::eeh::state;

/// The driver VFIO needs on a device.
const VFIO_PCI: &str = "vfio-pci";

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) number: u32,
    pub(super) devices: Vec<Device>,
    pub(super) pe: Pe,
    pub(super) eeh_state: i32,
    /// Whether its devices were unplugged.
    pub(super) gone: bool,
    /// The container it is in, if any.
    pub(super) container: Option<u32>,
    /// Number of files that hold the group open: its own and those of its devices.
    pub(super) files: u32,
    /// Number of files of its devices.
    pub(super) device_files: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Device {
    pub(super) address: String,
    driver: String,
    /// Number of files of this device.
    pub(super) files: u32,
    pub(super) slot: Slot,
}

impl Group {
    /// Creates a group with one `edu`, alone under its PHB.
    pub(super) fn new(number: u32) -> Self {
        let mut group = Self::empty(number);
        group.add_edu(VFIO_PCI);
        group
    }

    /// Creates a group without devices.
    pub(super) fn empty(number: u32) -> Self {
        Self {
            number,
            devices: Vec::new(),
            pe: Pe::new(number),
            eeh_state: state::NORMAL,
            gone: false,
            container: None,
            files: 0,
            device_files: 0,
        }
    }

    pub(super) fn set_devices(&mut self, count: u32) {
        self.devices.clear();
        (0..count.max(1)).for_each(|_| self.add_edu(VFIO_PCI));
    }

    /// Adds a device that is bound to a host driver.
    pub(super) fn add_host_device(&mut self, driver: &str) {
        self.add_edu(driver);
    }

    fn add_edu(&mut self, driver: &str) {
        if let Ok(edu) = Slot::new(Box::new(Edu::new())) {
            self.add_slot(driver, edu);
        }
    }

    /// Adds a device that is bound to vfio-pci.
    pub(super) fn add_device(&mut self, slot: Slot) {
        self.add_slot(VFIO_PCI, slot);
    }

    fn add_slot(&mut self, driver: &str, slot: Slot) {
        let address = format!("{:04x}:00:{:02x}.0", self.number, self.devices.len());
        self.devices.push(Device { address, driver: driver.into(), files: 0, slot });
    }

    /// Counts one more file of a device, which also holds the group.
    pub(super) fn hold_device(&mut self, index: usize) {
        self.files += 1;
        self.device_files += 1;
        self.devices[index].files += 1;
    }

    /// Opens or closes the only file of a device: the kernel unfreezes the PE for its next owner
    /// (`eeh_pe_change_owner`).
    pub(super) fn change_owner(&mut self) {
        if matches!(self.eeh_state, state::STOPPED | state::STOPPED_DMA) {
            self.eeh_state = state::NORMAL;
        }
    }

    /// Returns the device that a host driver holds, and that driver: such a group cannot be owned.
    pub(super) fn host_driver(&self) -> Option<(&str, &str)> {
        let device = self.devices.iter().find(|device| device.driver != VFIO_PCI)?;
        Some((&device.address, &device.driver))
    }

    /// Finds a device that VFIO knows, by name.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.devices.iter().position(|device| device.address == name && device.driver == VFIO_PCI)
    }

    pub(super) fn facts(&self) -> GroupFacts {
        let devices = self.devices.iter().map(|device| PciDevice {
            address: device.address.clone(),
            id: device.slot.description.id,
            driver: Some(device.driver.clone()),
        });
        GroupFacts { number: crate::pci::Group(self.number), devices: devices.collect() }
    }
}
