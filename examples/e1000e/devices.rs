//! The Ethernet controllers of the machine, and the model on a machine that is not POWER.

use crate::driver::ID;
use spapr_iommu::Group;
use spapr_iommu::host::Host;
use spapr_iommu::model::{E1000e, Model};
use std::error::Error;

/// Returns the controller at `address`, or the first one that is bound to vfio-pci.
pub(crate) fn one(host: &dyn Host, address: Option<&str>) -> Result<String, Box<dyn Error>> {
    if let Some(address) = address {
        return Ok(address.to_owned());
    }
    let mut devices = host.groups().into_iter().flat_map(|group| group.devices);
    let first = devices.find(|device| device.id == ID && device.driver.as_deref() == Some("vfio-pci"));
    Ok(first.ok_or("no 82574L is bound to vfio-pci: bind one, or name one with --device")?.address)
}

/// Returns a model with a controller.
pub(crate) fn with_controller(preset: &str) -> Result<Model, Box<dyn Error>> {
    Ok(Model::new(preset.parse()?).panic_on_violation().with_device(Group(0), E1000e::new())?)
}
