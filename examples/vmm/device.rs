//! The device of the host, as the guest gets it: its BAR 0 at a real address, each access passed on.

use clap::ValueEnum;
use spapr_iommu::host::{GroupFacts, PciDevice};
use spapr_iommu::space::{AddressSpace, Device, DeviceRegion};
use spapr_iommu::uapi::vfio::{PCI_BAR0_REGION_INDEX, PCI_CONFIG_REGION_INDEX};
use std::error::Error;

/// Kinds of devices the guest knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// QEMU's teaching device
    Edu,
}

impl Kind {
    /// Vendor, device and class.
    pub(crate) fn id(self) -> (u16, u16, u32) {
        match self {
            Self::Edu => (0x1234, 0x11e8, 0x00_ff00),
        }
    }

    /// The first device of that kind and its group.
    pub(crate) fn find(self, groups: &[GroupFacts]) -> Result<(u32, PciDevice), String> {
        let (vendor, device, _) = self.id();
        let all = groups.iter().flat_map(|group| group.devices.iter().map(|device| (group.number, device)));
        let mut of_kind = all.filter(|(_, pci)| pci.id == (vendor, device));
        let found = of_kind.find(|(_, pci)| pci.driver.as_deref() == Some("vfio-pci"));
        found.map(|(group, pci)| (group, pci.clone())).ok_or(format!("no {self:?} is bound to vfio-pci"))
    }
}

/// Where the guest finds BAR 0.
pub(crate) const BAR: u64 = 1 << 32;

/// Memory and bus mastering of the command register.
const COMMAND: (u64, u16) = (4, 0x6);

/// An open device.
pub(crate) struct Passed {
    pub(crate) kind: Kind,
    _device: Device,
    bar: DeviceRegion,
}

impl Passed {
    /// Opens the device of an attached group.
    pub(crate) fn open(space: &AddressSpace, group: u32, pci: &PciDevice, kind: Kind) -> Result<Self, Box<dyn Error>> {
        let device = space.device(group, &pci.address)?;
        let config = device.region(PCI_CONFIG_REGION_INDEX)?;
        config.write(COMMAND.0, &COMMAND.1.to_le_bytes())?;
        let bar = device.region(PCI_BAR0_REGION_INDEX)?;
        Ok(Self { kind, _device: device, bar })
    }

    /// Bytes of BAR 0.
    pub(crate) fn size(&self) -> u64 {
        self.bar.size()
    }

    /// A load by the guest; ones where no register is.
    pub(crate) fn load(&self, at: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0xff; len];
        if let Some(offset) = at.checked_sub(BAR)
            && self.bar.read(offset, &mut data).is_err()
        {
            data.fill(0xff);
        }
        data
    }

    /// A store by the guest; nothing where no register is.
    pub(crate) fn store(&self, at: u64, data: &[u8]) {
        if let Some(offset) = at.checked_sub(BAR) {
            let _ = self.bar.write(offset, data);
        }
    }
}
