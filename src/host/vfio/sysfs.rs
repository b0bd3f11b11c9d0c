//! Reads IOMMU groups and their devices from sysfs.

use super::roots::Roots;
use crate::host::{GroupFacts, PciDevice};
use std::fs;
use std::path::Path;

/// Returns the groups with their devices, both in order. Omits what cannot be read: groups come and
/// go.
pub(super) fn groups(roots: &Roots) -> Vec<GroupFacts> {
    let root = roots.sys.join("kernel/iommu_groups");
    let mut groups: Vec<_> = numbers(&root)
        .into_iter()
        .map(|number| GroupFacts { number, devices: devices(&root.join(number.to_string()).join("devices")) })
        .collect();
    groups.sort_by_key(|group| group.number);
    groups
}

/// Returns the entries of a folder that are numbers, in order.
pub(super) fn numbers(folder: &Path) -> Vec<u32> {
    let mut numbers: Vec<u32> = names(folder).iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Returns the entries of a folder, in no particular order.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn devices(folder: &Path) -> Vec<PciDevice> {
    let mut addresses = names(folder);
    addresses.sort_unstable();
    addresses.into_iter().map(|address| device(&folder.join(&address), address)).collect()
}

/// Returns the device whose folder is `path`.
pub(super) fn device(path: &Path, address: String) -> PciDevice {
    // PCI reads all ones where there is no device.
    let id = (hex(&path.join("vendor")).unwrap_or(0xffff), hex(&path.join("device")).unwrap_or(0xffff));
    PciDevice { address, id, driver: target(&path.join("driver")) }
}

/// Returns the name of a link's target.
pub(super) fn target(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

fn hex(file: &Path) -> Option<u16> {
    u16::from_str_radix(fs::read_to_string(file).ok()?.trim().strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn groups_and_devices_come_in_order_with_ids_and_drivers() {
        let fixture = Fixture::new();
        fixture.device(10, "0001:00:00.0", (0x1014, 0x04c1), None);
        fixture.device(2, "0000:00:02.0", (0x1b36, 0x0010), Some("nvme"));
        fixture.device(2, "0000:00:01.0", (0x1234, 0x11e8), Some("vfio-pci"));
        fixture.write("sys/kernel/iommu_groups/3/devices/00000000.odd/uevent", "");
        let device = |address: &str, id, driver: Option<&str>| PciDevice {
            address: address.to_owned(),
            id,
            driver: driver.map(str::to_owned),
        };
        assert_eq!(
            groups(&fixture.roots()),
            [
                GroupFacts {
                    number: 2,
                    devices: vec![
                        device("0000:00:01.0", (0x1234, 0x11e8), Some("vfio-pci")),
                        device("0000:00:02.0", (0x1b36, 0x0010), Some("nvme")),
                    ]
                },
                GroupFacts { number: 3, devices: vec![device("00000000.odd", (0xffff, 0xffff), None)] },
                GroupFacts { number: 10, devices: vec![device("0001:00:00.0", (0x1014, 0x04c1), None)] },
            ]
        );
    }

    #[test]
    fn a_kernel_without_groups_has_none() {
        assert_eq!(groups(&Fixture::new().roots()), []);
    }
}
