//! A device of the host as the guest gets it.

use super::bar::GuestBar;
use super::config::GuestConfig;
use super::kvm::Vm;
use super::messages::Messages;
use spapr_iommu::device::{Device, DeviceError};
use spapr_iommu::guest::Phb;
use spapr_iommu::host::{GroupFacts, PciDevice, RegionArea};
use spapr_iommu::space::DeviceArea;
use std::error::Error;
use std::sync::Arc;

/// Vendor and device of QEMU's NVMe controller.
const NVME: (u16, u16) = (0x1b36, 0x0010);

/// Where the guest's bus has memory: bus addresses, and how far from them the processor sees it.
pub(crate) const MMIO: (u64, u64) = (0x8000_0000, 0x7000_0000);
pub(crate) const MMIO_OFFSET: u64 = 0x2000_0000_0000;
/// Distance of devices' BARs: a page of the guest's kernel, or the largest BAR here.
const STEP: u64 = 0x10_0000;

/// Returns the NVMe controllers that a guest may have, with their groups.
pub(crate) fn find(groups: &[GroupFacts]) -> Vec<(u32, PciDevice)> {
    let all = groups.iter().flat_map(|group| group.devices.iter().map(|device| (group.number, device)));
    let ours = |pci: &PciDevice| pci.id == NVME && pci.driver.as_deref() == Some("vfio-pci");
    all.filter(|(_, pci)| ours(pci)).map(|(group, pci)| (group, pci.clone())).collect()
}

/// An open device.
pub(crate) struct Passed {
    device: Arc<Device>,
    pub(crate) group: u32,
    /// Bus, device and function, as a configuration address has them.
    pub(crate) place: u32,
    /// Bus address of BAR 0.
    pub(crate) at: u64,
    pub(crate) config: GuestConfig,
    pub(crate) messages: Messages,
    pub(crate) bar: GuestBar,
}

impl Passed {
    /// Opens a device of an attached group for a slot of the guest's bus.
    pub(crate) fn open(phb: &Phb, group: u32, pci: &PciDevice, slot: u32) -> Result<Self, Box<dyn Error>> {
        let device = Arc::new(Device::open(phb.space(), group, &pci.address)?);
        let bar = GuestBar::new(&device)?;
        let at = MMIO.0 + STEP * u64::from(slot + 1);
        let config = GuestConfig::new(Arc::clone(&device), at, bar.size());
        let messages = Messages::new(Arc::clone(&device), slot)?;
        Ok(Self { device, group, place: (slot + 1) << 11, at, config, messages, bar })
    }

    /// Maps BAR 0; `None` where the host cannot map all of it.
    pub(crate) fn map_bar(&self) -> Result<Option<DeviceArea>, DeviceError> {
        let whole = |area: &RegionArea| (area.offset, area.len) == (0, self.bar.size());
        let area = self.device.bar_areas(0)?.into_iter().find(whole);
        area.map(|area| self.device.map_bar_area(0, area)).transpose()
    }

    /// Brings it back to how the guest found it.
    pub(crate) fn reset(&self, vm: &Vm) -> Result<(), Box<dyn Error>> {
        self.messages.off(vm);
        Ok(self.config.reset()?)
    }
}

/// Returns the device with a real address of the guest, and the offset in its BAR.
fn at(devices: &[Passed], address: u64) -> Option<(&Passed, u64)> {
    let offset = |device: &Passed| address.checked_sub(device.at + MMIO_OFFSET);
    devices.iter().find_map(|device| Some((device, offset(device).filter(|offset| *offset < device.bar.size())?)))
}

/// Returns the result of a load of the guest.
pub(crate) fn load(devices: &[Passed], address: u64, len: usize) -> Vec<u8> {
    at(devices, address).map_or_else(|| vec![0xff; len], |(device, offset)| device.bar.load(offset, len))
}

/// Performs a store of the guest.
pub(crate) fn store(devices: &[Passed], address: u64, data: &[u8]) {
    if let Some((device, offset)) = at(devices, address) {
        device.bar.store(offset, data);
    }
}
