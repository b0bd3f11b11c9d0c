//! `spapr-iommu bind` and `spapr-iommu unbind`.

use super::output::bind::{self, Device, Group, Member, Report, Trouble};
use super::{BindArguments, Exit, remedy, written};
use spapr_iommu::host::Obstacle;
use spapr_iommu::host::vfio::bind::{BindError, Binder, Binding};
use std::collections::BTreeSet;

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
            eprintln!("{error}");
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
    let result = if arguments.json { bind::json(&report) } else { bind::text(&report) };
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
    // Devices that are put back need not be usable afterwards.
    let groups: BTreeSet<u32> = match direction {
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
        group: binding.and_then(|binding| binding.group),
        before: binding.and_then(|binding| binding.before.clone()),
        driver: binding.and_then(|binding| binding.driver.clone()),
        changed: binding.is_some_and(|binding| binding.changed),
        error: error.map(|error| Trouble { code: code(error), message: error.to_string() }),
    }
}

fn code(error: &BindError) -> &'static str {
    match error {
        BindError::Obstacle(obstacle) => obstacle.into(),
        error => error.into(),
    }
}

fn group(binder: &Binder, number: u32) -> Group {
    let member = |device: spapr_iommu::host::PciDevice| Member {
        address: device.address,
        id: format!("{:04x}:{:04x}", device.id.0, device.id.1),
        driver: device.driver,
    };
    let trouble = |obstacle: Obstacle| Trouble { code: (&obstacle).into(), message: obstacle.to_string() };
    Group {
        number,
        devices: binder.group(number).into_iter().flat_map(|group| group.devices).map(member).collect(),
        in_the_way: binder.in_the_way(number).into_iter().map(trouble).collect(),
    }
}

/// Reports on stderr what prevents use, and returns the exit code.
fn judge(report: &Report) -> Exit {
    let errors = report.devices.iter().filter_map(|device| device.error.as_ref());
    let mut exit = Exit::Success;
    for trouble in errors.chain(report.groups.iter().flat_map(|group| &group.in_the_way)) {
        eprintln!("{}{}", trouble.message, remedy::of_obstacle(trouble.code));
        exit = Exit::Obstacle;
    }
    exit
}
