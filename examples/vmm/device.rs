//! A device of the host as the guest gets it: its BAR 0 at a real address, each access passed on.

use clap::ValueEnum;
use spapr_iommu::Group;
use spapr_iommu::guest::Phb;
use spapr_iommu::host::{GroupFacts, PciDevice};
use spapr_iommu::space::{DeviceRegion, RawDevice};
use spapr_iommu::uapi::vfio::{PCI_BAR0_REGION_INDEX, PCI_CONFIG_REGION_INDEX};
use std::error::Error;

/// Kinds of devices the guest knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// QEMU's teaching device
    Edu,
    /// A disk controller
    Nvme,
}

impl Kind {
    /// Returns vendor, device and class.
    pub(crate) fn id(self) -> (u16, u16, u32) {
        match self {
            Self::Edu => (0x1234, 0x11e8, 0x00_ff00),
            Self::Nvme => (0x1b36, 0x0010, 0x01_0802),
        }
    }

    /// Returns the devices of that kind that a guest may have, with their groups.
    pub(crate) fn find(self, groups: &[GroupFacts]) -> Vec<(Group, PciDevice)> {
        let (vendor, device, _) = self.id();
        let all = groups.iter().flat_map(|group| group.devices.iter().map(|device| (group.number, device)));
        let ours = |pci: &PciDevice| pci.id == (vendor, device) && pci.driver.as_deref() == Some("vfio-pci");
        all.filter(|(_, pci)| ours(pci)).map(|(group, pci)| (group, pci.clone())).collect()
    }
}

/// Real address of BAR 0 of the guest's first device; that of the next one follows at the same
/// distance.
pub(crate) const BAR: u64 = 1 << 32;

/// Offset of the command register, and its memory and bus master bits.
const COMMAND: (u64, u16) = (4, 0x6);

/// An open device.
pub(crate) struct Passed {
    pub(crate) kind: Kind,
    pub(crate) group: Group,
    /// Real address of its BAR 0 in the guest.
    pub(crate) at: u64,
    _device: RawDevice,
    bar: DeviceRegion,
}

impl Passed {
    /// Attaches a group to a PHB and opens its device.
    pub(crate) fn attach(
        phb: &Phb,
        group: Group,
        pci: &PciDevice,
        kind: Kind,
        at: u64,
    ) -> Result<Self, Box<dyn Error>> {
        phb.attach(group)?;
        let device = phb.space().device(group, &pci.address)?;
        let config = device.region(PCI_CONFIG_REGION_INDEX)?;
        config.write(COMMAND.0, &COMMAND.1.to_le_bytes())?;
        let bar = device.region(PCI_BAR0_REGION_INDEX)?;
        Ok(Self { kind, group, at, _device: device, bar })
    }

    /// Returns the size of BAR 0 in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.bar.size()
    }

    /// Performs a load of the guest; all ones where there is no register.
    fn load(&self, at: u64, data: &mut [u8]) {
        if at.checked_sub(self.at).is_none_or(|offset| self.bar.read(offset, data).is_err()) {
            data.fill(0xff);
        }
    }

    /// Performs a store of the guest; does nothing where there is no register.
    fn store(&self, at: u64, data: &[u8]) {
        let _ = at.checked_sub(self.at).map(|offset| self.bar.write(offset, data));
    }
}

/// Returns the device at a real address: the last one that starts at or before it.
fn at(devices: &[Passed], at: u64) -> Option<&Passed> {
    devices.iter().filter(|device| device.at <= at).max_by_key(|device| device.at)
}

/// Returns the result of a load of the guest.
pub(crate) fn load(devices: &[Passed], address: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0xff; len];
    if let Some(device) = at(devices, address) {
        device.load(address, &mut data);
    }
    data
}

/// Performs a store of the guest.
pub(crate) fn store(devices: &[Passed], address: u64, data: &[u8]) {
    if let Some(device) = at(devices, address) {
        device.store(address, data);
    }
}
