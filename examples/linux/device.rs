//! A device of the host as the guest gets it.

use super::bar::GuestBar;
use super::config::GuestConfig;
use super::function;
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
    size: u64,
    config: GuestConfig,
    bar: GuestBar,
}

impl Passed {
    /// Opens a device of an attached group for a slot of the guest's bus.
    pub(crate) fn open(phb: &Phb, group: Group, pci: &PciDevice, slot: u32) -> Result<Self, Box<dyn Error>> {
        let device = Arc::new(Device::open(phb.space(), group, pci.address.parse()?)?);
        let bar = GuestBar::new(&device)?;
        // Whole pages of the host; otherwise the guest would put another BAR on the last page, and
        // reach this device there.
        let size = bar.size().next_multiple_of(phb.space().registry().host().page_shift().bytes());
        let config = GuestConfig::new(Arc::clone(&device), function::bar_address(slot), size);
        Ok(Self { device, size, config, bar })
    }

    /// Maps BAR 0; `None` where the host cannot map all of it.
    pub(crate) fn map_bar(&self) -> Result<Option<DeviceArea>, DeviceError> {
        let whole = |area: &RegionArea| (area.offset, area.len) == (0, self.bar.size());
        let area = self.device.bar_areas(0)?.into_iter().find(whole);
        area.map(|area| self.device.map_bar_area(0, area)).transpose()
    }

    /// Returns the device, whose messages are forwarded.
    pub(crate) fn device(&self) -> &Arc<Device> {
        &self.device
    }

    /// Returns the configuration space as the guest sees it.
    pub(crate) fn config(&self) -> &GuestConfig {
        &self.config
    }

    /// Returns the size that the guest sees of BAR 0.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Returns BAR 0.
    pub(crate) fn bar(&self) -> &GuestBar {
        &self.bar
    }
}
