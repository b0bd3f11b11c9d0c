//! Shows the result of binding, as text and as JSON.

use super::Sink;
use super::tables::section;
use std::io;

/// What was done, and what still prevents use.
#[derive(Debug, serde::Serialize)]
pub(in crate::command) struct Report {
    pub(in crate::command) command: &'static str,
    pub(in crate::command) devices: Vec<Device>,
    /// Groups of the bound devices.
    pub(in crate::command) groups: Vec<Group>,
}

/// A device to be bound or unbound.
#[derive(Debug, serde::Serialize)]
pub(in crate::command) struct Device {
    pub(in crate::command) address: String,
    pub(in crate::command) group: Option<u32>,
    /// Driver before.
    pub(in crate::command) before: Option<String>,
    /// Driver now.
    pub(in crate::command) driver: Option<String>,
    pub(in crate::command) changed: bool,
    pub(in crate::command) error: Option<Trouble>,
}

#[derive(Debug, serde::Serialize)]
pub(in crate::command) struct Group {
    #[serde(rename = "group")]
    pub(in crate::command) number: u32,
    pub(in crate::command) devices: Vec<Member>,
    pub(in crate::command) in_the_way: Vec<Trouble>,
}

/// A device of a group.
#[derive(Debug, serde::Serialize)]
pub(in crate::command) struct Member {
    pub(in crate::command) address: String,
    /// Vendor and device ID, as `lspci -n` shows them.
    pub(in crate::command) id: String,
    pub(in crate::command) driver: Option<String>,
}

/// A problem that prevents use.
#[derive(Debug, serde::Serialize)]
pub(in crate::command) struct Trouble {
    pub(in crate::command) code: &'static str,
    pub(in crate::command) message: String,
}

/// One line of JSON.
pub(in crate::command) fn json(report: &Report) -> io::Result<()> {
    let mut sink = Sink::stdout();
    sink.json(report);
    sink.finish()
}

/// A line for each device, then the groups.
pub(in crate::command) fn text(report: &Report) -> io::Result<()> {
    let mut sink = Sink::stdout();
    report.devices.iter().filter_map(line).for_each(|line| sink.line(&line));
    report.groups.iter().for_each(|group| sink.line(&draw(group)));
    sink.finish()
}

/// Formats a device; failures go to stderr instead.
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
