//! `spapr-iommu list`.

use super::output::{Sink, section};
use super::{Exit, ListArguments, written};
use crate::doctor::Place;
use std::collections::BTreeMap;
use std::io;

pub(super) fn run(arguments: &ListArguments) -> Exit {
    let place = Place::new(arguments.root.as_deref());
    let devices = devices(&place);
    let mut sink = Sink::stdout();
    if arguments.json {
        sink.json(&Report { devices: &devices });
    } else {
        draw(&devices).iter().for_each(|section| sink.line(section));
    }
    let result: io::Result<()> = sink.finish();
    written(result)
}

#[derive(Debug, serde::Serialize)]
struct Report<'a> {
    devices: &'a [Device],
}

/// A PCI device.
#[derive(Debug, serde::Serialize)]
struct Device {
    /// Its IOMMU group; devices without one cannot be given to user space.
    group: Option<u32>,
    address: String,
    /// Vendor and device ID, as `lspci -n` shows them.
    id: String,
    driver: Option<String>,
    /// The driver it is reserved for: `driver_override`.
    driver_override: Option<String>,
    /// NUMA node, if the machine has more than one.
    numa_node: Option<u32>,
    /// Its names on the host: network interfaces and NVMe controllers.
    names: Vec<String>,
}

/// Returns all devices by group, those without group last.
fn devices(place: &Place) -> Vec<Device> {
    let mut devices: Vec<_> = place.binder.devices().into_iter().map(|found| device(place, found)).collect();
    devices.sort_by_key(|device| (device.group.is_none(), device.group));
    devices
}

fn device(place: &Place, found: spapr_iommu::host::PciDevice) -> Device {
    let address = found.address.to_string();
    let folder = format!("sys/bus/pci/devices/{address}");
    let read = |file| place.read(&format!("{folder}/{file}"));
    let group = std::fs::read_link(place.path(&folder).join("iommu_group")).ok();
    let group = group.and_then(|path| path.file_name()?.to_str()?.parse().ok());
    Device {
        group,
        id: format!("{:04x}:{:04x}", found.id.0, found.id.1),
        driver: found.driver,
        driver_override: read("driver_override").filter(|name| !name.is_empty() && name != "(null)"),
        // -1 on machines with a single node.
        numa_node: read("numa_node").and_then(|node| node.parse().ok()),
        names: ["net", "nvme"].into_iter().flat_map(|class| place.names(&format!("{folder}/{class}"))).collect(),
        address,
    }
}

/// Formats a table for each group.
fn draw(devices: &[Device]) -> Vec<String> {
    let mut groups: BTreeMap<(bool, Option<u32>), Vec<&Device>> = BTreeMap::new();
    for device in devices {
        groups.entry((device.group.is_none(), device.group)).or_default().push(device);
    }
    if groups.is_empty() {
        return vec!["This machine has no PCI devices.".to_owned()];
    }
    let headings = ["device", "id", "driver", "override", "NUMA>", "names"];
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let rows = |devices: Vec<&Device>| {
        let row = |device: &Device| {
            vec![
                device.address.clone(),
                device.id.clone(),
                device.driver.clone().unwrap_or_else(|| "none".into()),
                or_dash(device.driver_override.clone()),
                or_dash(device.numa_node.map(|node| node.to_string())),
                or_dash(Some(device.names.join(", ")).filter(|names| !names.is_empty())),
            ]
        };
        devices.into_iter().map(row).collect::<Vec<_>>()
    };
    let title = |group: Option<u32>| group.map_or("No group".into(), |group| format!("Group {group}"));
    let sections = groups.into_iter().map(|((_, group), devices)| (title(group), rows(devices)));
    sections.map(|(title, rows)| section(&title, &headings, rows.into_iter()).trim_end().to_owned()).collect()
}
