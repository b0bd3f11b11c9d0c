//! The NVMe controllers of the machine, and the model on a machine that is not POWER.

use spapr_iommu::Group;
use spapr_iommu::host::Host;
use spapr_iommu::model::{Model, Nvme};
use std::error::Error;

/// QEMU's controller, and the model's. The host's list of devices has no class, by which any could
/// be found.
const QEMU: (u16, u16) = (0x1b36, 0x0010);

/// A controller that is bound to vfio-pci.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) address: String,
    pub(crate) group: Group,
}

/// Returns all controllers that are bound to vfio-pci, lowest group first.
pub(crate) fn all(host: &dyn Host) -> Vec<Found> {
    let groups = host.groups().into_iter();
    let devices = groups.flat_map(|group| group.devices.into_iter().map(move |device| (group.number, device)));
    let bound = devices.filter(|(_, device)| device.id == QEMU && device.driver.as_deref() == Some("vfio-pci"));
    bound.map(|(group, device)| Found { address: device.address, group }).collect()
}

/// Returns the controller at `address`, or the first one.
pub(crate) fn one(host: &dyn Host, address: Option<&str>) -> Result<String, Box<dyn Error>> {
    if let Some(address) = address {
        return Ok(address.to_owned());
    }
    let first = all(host).into_iter().next();
    Ok(first.ok_or("no NVMe controller of QEMU is bound to vfio-pci: bind one, or name one with --device")?.address)
}

/// Bytes of each disk.
const DISK: u64 = 64 << 20;

/// Returns a model with a disk in each of two groups.
pub(crate) fn with_disks(preset: &str) -> Result<Model, Box<dyn Error>> {
    let disk = |serial| Nvme::new(DISK).with_serial(serial);
    let model = Model::new(preset.parse()?).panic_on_violation();
    Ok(model.with_device(Group(0), disk("disk0"))?.with_device(Group(1), disk("disk1"))?)
}
