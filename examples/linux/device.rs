//! A device of the host as the guest gets it.

use super::bar::GuestBar;
use super::config::GuestConfig;
use super::function::{self, Function};
use super::kvm::Vm;
use super::messages::Messages;
use spapr_iommu::Group;
use spapr_iommu::device::{Device, DeviceError};
use spapr_iommu::guest::Phb;
use spapr_iommu::host::{GroupFacts, PciDevice, RegionArea};
use spapr_iommu::space::DeviceArea;
use std::error::Error;
use std::sync::Arc;

/// Vendor and device of QEMU's NVMe controller.
const NVME: (u16, u16) = (0x1b36, 0x0010);

/// Returns the NVMe controllers that a guest may have, with their groups.
pub(crate) fn find(groups: &[GroupFacts]) -> Vec<(Group, PciDevice)> {
    let all = groups.iter().flat_map(|group| group.devices.iter().map(|device| (group.number, device)));
    let ours = |pci: &PciDevice| pci.id == NVME && pci.driver.as_deref() == Some("vfio-pci");
    all.filter(|(_, pci)| ours(pci)).map(|(group, pci)| (group, pci.clone())).collect()
}

/// An open device.
pub(crate) struct Passed {
    device: Arc<Device>,
    pub(crate) group: Group,
    /// Bus, device and function, as a configuration address has them.
    place: u32,
    /// Bus address of BAR 0.
    at: u64,
    config: GuestConfig,
    messages: Messages,
    bar: GuestBar,
}

impl Passed {
    /// Opens a device of an attached group for a slot of the guest's bus.
    pub(crate) fn open(phb: &Phb, group: Group, pci: &PciDevice, slot: u32) -> Result<Self, Box<dyn Error>> {
        let device = Arc::new(Device::open(phb.space(), group, pci.address.parse()?)?);
        let bar = GuestBar::new(&device)?;
        let at = function::bar_address(slot);
        let config = GuestConfig::new(Arc::clone(&device), at, bar.size());
        let messages = Messages::new(Arc::clone(&device), slot)?;
        Ok(Self { device, group, place: function::place(slot), at, config, messages, bar })
    }

    /// Maps BAR 0; `None` where the host cannot map all of it.
    pub(crate) fn map_bar(&self) -> Result<Option<DeviceArea>, DeviceError> {
        let whole = |area: &RegionArea| (area.offset, area.len) == (0, self.bar.size());
        let area = self.device.bar_areas(0)?.into_iter().find(whole);
        area.map(|area| self.device.map_bar_area(0, area)).transpose()
    }
}

impl Function for Passed {
    fn name(&self) -> &'static str {
        "nvme"
    }

    fn place(&self) -> u32 {
        self.place
    }

    fn bar(&self) -> (u64, u64) {
        (self.at, self.bar.size())
    }

    fn read_config(&self, at: u64, size: u32) -> u32 {
        self.config.read(at, size)
    }

    fn write_config(&self, at: u64, size: u32, value: u32) {
        self.config.write(at, size, value);
    }

    fn load(&self, at: u64, len: usize) -> Vec<u8> {
        self.bar.load(at, len)
    }

    fn store(&self, at: u64, data: &[u8]) {
        self.bar.store(at, data);
    }

    fn messages(&self) -> &Messages {
        &self.messages
    }

    fn reset(&self, vm: &Vm) -> Result<(), Box<dyn Error>> {
        self.messages.off(vm);
        Ok(self.config.reset()?)
    }
}
