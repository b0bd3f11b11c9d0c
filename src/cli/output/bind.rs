//! What binding came to, as a person reads it and as JSON.

use super::Sink;
use super::tables::section;
use std::io;

/// What was done, and what is still in the way.
#[derive(Debug, serde::Serialize)]
pub(in crate::cli) struct Report {
    pub(in crate::cli) command: &'static str,
    pub(in crate::cli) devices: Vec<Device>,
    /// The groups of devices that were bound.
    pub(in crate::cli) groups: Vec<Group>,
}

/// A device that was to be bound or unbound.
#[derive(Debug, serde::Serialize)]
pub(in crate::cli) struct Device {
    pub(in crate::cli) address: String,
    pub(in crate::cli) group: Option<u32>,
    /// The driver before.
    pub(in crate::cli) before: Option<String>,
    /// The driver now.
    pub(in crate::cli) driver: Option<String>,
    pub(in crate::cli) changed: bool,
    pub(in crate::cli) error: Option<Trouble>,
}

#[derive(Debug, serde::Serialize)]
pub(in crate::cli) struct Group {
    #[serde(rename = "group")]
    pub(in crate::cli) number: u32,
    pub(in crate::cli) devices: Vec<Member>,
    pub(in crate::cli) in_the_way: Vec<Trouble>,
}

/// A device of a group.
#[derive(Debug, serde::Serialize)]
pub(in crate::cli) struct Member {
    pub(in crate::cli) address: String,
    /// Vendor and device, as `lspci -n` has them.
    pub(in crate::cli) id: String,
    pub(in crate::cli) driver: Option<String>,
}

/// Something in the way.
#[derive(Debug, serde::Serialize)]
pub(in crate::cli) struct Trouble {
    pub(in crate::cli) code: &'static str,
    pub(in crate::cli) message: String,
}

/// One line of JSON.
pub(in crate::cli) fn json(report: &Report) -> io::Result<()> {
    let mut sink = Sink::stdout();
    sink.json(report);
    sink.finish()
}

/// A line for each device, then the groups.
pub(in crate::cli) fn text(report: &Report) -> io::Result<()> {
    let mut sink = Sink::stdout();
    report.devices.iter().filter_map(line).for_each(|line| sink.line(&line));
    report.groups.iter().for_each(|group| sink.line(&draw(group)));
    sink.finish()
}

/// What fails is told on stderr.
fn line(device: &Device) -> Option<String> {
    let driver = |driver: &Option<String>| driver.as_deref().unwrap_or("no driver").to_owned();
    let (address, now) = (&device.address, driver(&device.driver));
    if device.error.is_some() {
        return None;
    }
    Some(match (device.changed, &device.before) {
        (true, before) => format!("{address} is bound to {now}; before: {}", driver(before)),
        (false, _) => format!("{address} is bound to {now}, as it was: nothing changed"),
    })
}

fn draw(group: &Group) -> String {
    let rows = group.devices.iter().map(|device| {
        vec![device.address.clone(), device.id.clone(), device.driver.clone().unwrap_or_else(|| "none".into())]
    });
    let devices = section(&format!("Group {}", group.number), &["device", "id", "driver"], rows);
    let end =
        if group.in_the_way.is_empty() { "Nothing is in its way: it can be attached." } else { "Not usable yet." };
    format!("{devices}{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(before: Option<&str>, driver: Option<&str>, changed: bool) -> Device {
        let name = |driver: Option<&str>| driver.map(str::to_owned);
        let (before, driver) = (name(before), name(driver));
        Device { address: "0000:00:01.0".into(), group: Some(7), before, driver, changed, error: None }
    }

    #[test]
    fn a_line_tells_what_was_and_what_is() {
        let bound = line(&device(Some("nvme"), Some("vfio-pci"), true)).unwrap();
        assert_eq!(bound, "0000:00:01.0 is bound to vfio-pci; before: nvme");
        let back = line(&device(Some("vfio-pci"), None, true)).unwrap();
        assert_eq!(back, "0000:00:01.0 is bound to no driver; before: vfio-pci");
        let same = line(&device(Some("vfio-pci"), Some("vfio-pci"), false)).unwrap();
        assert_eq!(same, "0000:00:01.0 is bound to vfio-pci, as it was: nothing changed");
    }

    #[test]
    fn a_group_lists_its_devices() {
        let member = Member { address: "0000:00:01.0".into(), id: "1b36:0010".into(), driver: None };
        let trouble = Trouble { code: "not-viable", message: "x".into() };
        let mut group = Group { number: 7, devices: vec![member], in_the_way: vec![trouble] };
        let expected = "\nGroup 7\n device        id         driver\n 0000:00:01.0  1b36:0010  none\nNot usable yet.";
        assert_eq!(draw(&group), expected);
        group.in_the_way.clear();
        assert!(draw(&group).ends_with("it can be attached."));
    }
}
