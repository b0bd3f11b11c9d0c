//! The IOMMU groups that tests may use. Shared by the test programs that run on real kernels.

use spapr_iommu::host::Host;

/// The groups that vfio-pci has, each with its first device.
pub(crate) fn groups(host: &impl Host) -> Vec<(u32, String)> {
    let groups = host.groups().into_iter();
    let ours = groups.filter_map(|group| {
        let device = group.devices.into_iter().find(|device| device.driver.as_deref() == Some("vfio-pci"))?;
        Some((group.number, device.address))
    });
    ours.collect()
}
