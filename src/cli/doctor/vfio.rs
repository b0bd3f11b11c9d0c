//! VFIO: modules, nodes, and the groups with their devices.

use super::{Finding, Level, Place};
use spapr_iommu::host::{GroupFacts, Node, Obstacle};

/// The driver of PCI bridges.
const BRIDGES: &str = "pcieport";

pub(super) fn check(place: &Place) -> Vec<Finding> {
    let mut findings = vec![modules(place), node(place.host.obstacle(Node::Container))];
    findings.extend(groups(place));
    findings
}

fn modules(place: &Place) -> Finding {
    let present = [
        ("vfio_iommu_spapr_tce", place.exists("sys/module/vfio_iommu_spapr_tce")),
        ("vfio-pci", place.exists("sys/bus/pci/drivers/vfio-pci")),
    ];
    let missing: Vec<_> = present.iter().filter(|(_, present)| !present).map(|(module, _)| *module).collect();
    if missing.is_empty() {
        return Finding::ok("modules", "vfio_iommu_spapr_tce and vfio-pci are loaded");
    }
    let text = format!("not loaded: {}", missing.join(", "));
    Finding::wrong("modules", "no-module", text, format!("`modprobe -a {}`", missing.join(" ")))
}

/// Judges the node of containers; a missing module is another finding.
pub(super) fn node(obstacle: Option<Obstacle>) -> Finding {
    match obstacle {
        None | Some(Obstacle::NoModule { module: "vfio_iommu_spapr_tce" }) => {
            Finding::ok("/dev/vfio", "/dev/vfio/vfio can be opened")
        }
        Some(obstacle) => of_obstacle("/dev/vfio", &obstacle),
    }
}

/// Returns what is wrong, with the command that mends it.
fn of_obstacle(topic: &'static str, obstacle: &Obstacle) -> Finding {
    let message = obstacle.to_string();
    // The remedies in the library's messages are for programs.
    let text = message.split_once(": ").map_or(message.as_str(), |(what, _)| what);
    let (text, remedy) = match obstacle {
        Obstacle::NoVfio => (text.to_owned(), "`modprobe -a vfio vfio_iommu_spapr_tce vfio-pci`".to_owned()),
        Obstacle::NoModule { module } => (text.to_owned(), format!("`modprobe {module}`")),
        Obstacle::Permission { path } => (text.to_owned(), format!("run as root, or `chown $USER {path}` as root")),
        Obstacle::NotViable { group, device, driver } => {
            (format!("group {group} is not viable: {device} is bound to {driver}"), bind(&device.to_string()))
        }
        Obstacle::HeldBy { pid, .. } => (text.to_owned(), format!("end process {pid}: `kill {pid}`")),
        Obstacle::Busy { group } => (text.to_owned(), format!("`fuser -v /dev/vfio/{group}` as root names its user")),
        _ => (text.to_owned(), message.clone()),
    };
    Finding::wrong(topic, obstacle.into(), text, remedy)
}

fn bind(address: &str) -> String {
    format!("`spapr-iommu bind {address} --group`")
}

/// Returns whether a device is with VFIO.
fn is_given(driver: Option<&str>) -> bool {
    driver.is_some_and(|driver| driver.contains("vfio"))
}

/// Returns the groups with a device that is bound to VFIO and without obstacles.
pub(crate) fn usable(place: &Place) -> Vec<GroupFacts> {
    let mut groups = place.host.groups();
    groups.retain(|group| {
        group.devices.iter().any(|device| is_given(device.driver.as_deref()))
            && place.binder.in_the_way(group.number).is_empty()
    });
    groups
}

fn groups(place: &Place) -> Vec<Finding> {
    let groups = place.host.groups();
    if groups.is_empty() {
        return vec![Finding::wrong(
            "groups",
            "no-groups",
            "this machine has no IOMMU group",
            "a machine with PCI devices is needed: `lspci -D` lists them",
        )];
    }
    let needs_one = usable(place).is_empty();
    groups.iter().filter_map(|group| one(place, group, needs_one)).collect()
}

/// Judges a group; `None` for one that only has bridges.
fn one(place: &Place, group: &GroupFacts, needs_one: bool) -> Option<Finding> {
    let topic = "groups";
    let driver = |name: &Option<String>| name.clone().unwrap_or_else(|| "no driver".into());
    let devices: Vec<_> = group.devices.iter().filter(|device| device.driver.as_deref() != Some(BRIDGES)).collect();
    let first = devices.first()?.address.to_string();
    let shown: Vec<_> =
        devices.iter().map(|device| format!("{} ({})", device.address, driver(&device.driver))).collect();
    let shown = format!("group {}: {}", group.number, shown.join(", "));
    if !devices.iter().any(|device| is_given(device.driver.as_deref())) {
        let host = devices.iter().find_map(|device| device.driver.clone());
        let (code, text) = match host {
            Some(driver) => ("host-driver", format!("{shown}, bound to the host's driver {driver}")),
            None => ("not-bound", format!("{shown}, bound to no driver")),
        };
        // The host keeps most devices. Without any for user space, there is nothing to drive.
        let level = if needs_one { Level::Wrong } else { Level::Ok };
        return Some(Finding { level, ..Finding::wrong(topic, code, text, bind(&first)) });
    }
    Some(match place.binder.in_the_way(group.number).first() {
        None => Finding::ok(topic, format!("{shown}, usable")),
        // Judged above, for all groups.
        Some(Obstacle::NoModule { .. } | Obstacle::NoVfio) => Finding::ok(topic, shown),
        Some(obstacle) => of_obstacle(topic, obstacle),
    })
}
