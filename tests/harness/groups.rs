//! Finds the IOMMU groups that tests may use. Shared by the test programs that run on real kernels.

use spapr_iommu::host::{GroupFacts, Host};

/// Returns the groups with vfio-pci, each with the devices bound to it.
pub fn groups(host: &(impl Host + ?Sized)) -> Vec<GroupFacts> {
    let mut groups = host.groups();
    groups.iter_mut().for_each(|group| group.devices.retain(|device| device.driver.as_deref() == Some("vfio-pci")));
    groups.retain(|group| !group.devices.is_empty());
    groups
}
