//! `spapr-iommu bind` and `spapr-iommu unbind`.

use super::output::{Sink, section};
use super::terminal::{chain, say};
use super::{BindArguments, Exit, remedy, written};
use spapr_iommu::Group;
use spapr_iommu::host::Obstacle;
use spapr_iommu::host::vfio::bind::{BindError, Binder, Binding};
use std::collections::BTreeSet;
use std::io;

/// Which of the two commands runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Bind,
    Unbind,
}

pub(super) fn run(arguments: &BindArguments, direction: Direction) -> Exit {
    let binder = Binder::new();
    let addresses = match addresses(&binder, arguments) {
        Ok(addresses) => addresses,
        Err(error) => {
            say(chain(&error));
            return if matches!(error, BindError::Address { .. }) { Exit::Usage } else { Exit::Obstacle };
        }
    };
    let results: Vec<_> = addresses
        .iter()
        .map(|address| match direction {
            Direction::Bind => binder.bind(address),
            Direction::Unbind => binder.unbind(address),
        })
        .collect();
    let report = report(&binder, direction, &addresses, &results);
    let result = if arguments.json { json(&report) } else { text(&report) };
    judge(&report).and(written(result))
}

/// Returns the requested devices, each once and in order.
fn addresses(binder: &Binder, arguments: &BindArguments) -> Result<Vec<String>, BindError> {
    let mut all = Vec::new();
    for given in &arguments.addresses {
        let with_group = binder.with_group(given)?;
        let count = if arguments.group { with_group.len() } else { 1 };
        for address in with_group.into_iter().take(count) {
            if !all.contains(&address) {
                all.push(address);
            }
        }
    }
    Ok(all)
}

fn report(
    binder: &Binder,
    direction: Direction,
    addresses: &[String],
    results: &[Result<Binding, BindError>],
) -> Report {
    let devices = addresses.iter().zip(results).map(|(address, result)| device(address, result)).collect();
    // Devices that are restored need not be usable afterwards.
    let groups: BTreeSet<Group> = match direction {
        Direction::Bind => results.iter().flatten().filter_map(|binding| binding.group).collect(),
        Direction::Unbind => BTreeSet::new(),
    };
    let groups = groups.into_iter().map(|number| group(binder, number)).collect();
    Report { command: if direction == Direction::Bind { "bind" } else { "unbind" }, devices, groups }
}

fn device(address: &str, result: &Result<Binding, BindError>) -> Device {
    let (binding, error) = match result {
        Ok(binding) => (Some(binding), None),
        Err(error) => (None, Some(error)),
    };
    Device {
        address: address.to_owned(),
        group: binding.and_then(|binding| binding.group).map(|group| group.0),
        before: binding.and_then(|binding| binding.before.clone()),
        driver: binding.and_then(|binding| binding.driver.clone()),
        changed: binding.is_some_and(|binding| binding.changed),
        error: error.map(|error| Problem { code: code(error), message: error.to_string() }),
    }
}

fn code(error: &BindError) -> &'static str {
    match error {
        BindError::Obstacle(obstacle) => obstacle.into(),
        error => error.into(),
    }
}

fn group(binder: &Binder, number: Group) -> GroupReport {
    let member = |device: spapr_iommu::host::PciDevice| Member {
        address: device.address,
        id: format!("{:04x}:{:04x}", device.id.0, device.id.1),
        driver: device.driver,
    };
    let problem = |obstacle: Obstacle| Problem { code: (&obstacle).into(), message: obstacle.to_string() };
    GroupReport {
        number: number.0,
        devices: binder.group(number).into_iter().flat_map(|group| group.devices).map(member).collect(),
        in_the_way: binder.in_the_way(number).into_iter().map(problem).collect(),
    }
}

/// Reports on stderr what prevents use, and returns the exit code.
fn judge(report: &Report) -> Exit {
    let errors = report.devices.iter().filter_map(|device| device.error.as_ref());
    let mut exit = Exit::Success;
    for problem in errors.chain(report.groups.iter().flat_map(|group| &group.in_the_way)) {
        say(format_args!("{}{}", problem.message, remedy::of_obstacle(problem.code)));
        exit = Exit::Obstacle;
    }
    exit
}

/// The result, and what still prevents use.
#[derive(Debug, serde::Serialize)]
struct Report {
    command: &'static str,
    devices: Vec<Device>,
    /// Groups of the bound devices.
    groups: Vec<GroupReport>,
}

/// A device to be bound or unbound.
#[derive(Debug, serde::Serialize)]
struct Device {
    address: String,
    group: Option<u32>,
    /// Driver before.
    before: Option<String>,
    /// Driver now.
    driver: Option<String>,
    changed: bool,
    error: Option<Problem>,
}

#[derive(Debug, serde::Serialize)]
struct GroupReport {
    #[serde(rename = "group")]
    number: u32,
    devices: Vec<Member>,
    in_the_way: Vec<Problem>,
}

/// A device of a group.
#[derive(Debug, serde::Serialize)]
struct Member {
    address: String,
    /// Vendor and device ID, as `lspci -n` shows them.
    id: String,
    driver: Option<String>,
}

/// A problem that prevents use.
#[derive(Debug, serde::Serialize)]
struct Problem {
    code: &'static str,
    message: String,
}

/// One line of JSON.
fn json(report: &Report) -> io::Result<()> {
    let mut sink = Sink::stdout();
    sink.json(report);
    sink.finish()
}

/// A line for each device, then the groups.
fn text(report: &Report) -> io::Result<()> {
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

fn draw(group: &GroupReport) -> String {
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
    fn a_line_shows_what_was_and_what_is() {
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
        let problem = Problem { code: "not-viable", message: "x".into() };
        let mut group = GroupReport { number: 7, devices: vec![member], in_the_way: vec![problem] };
        let expected = "\nGroup 7\n device        id         driver\n 0000:00:01.0  1b36:0010  none\nNot usable yet.";
        assert_eq!(draw(&group), expected);
        group.in_the_way.clear();
        assert!(draw(&group).ends_with("it can be attached."));
    }
}
