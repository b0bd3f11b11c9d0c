//! Collects the state at one moment, in the order of the scenario.

use super::report::{GroupRow, LeaseRow, Locked, MapRow, RegionRow, Tables, WindowRow};
use super::world::World;
use spapr_iommu::window::{DEFAULT_PAGE, DefaultWindow};

pub(super) fn tables(world: &World<'_>) -> Tables {
    let mut regions = world.registry.regions();
    regions.sort_by_key(|region| world.places.rank(region.range.start()));
    let charged = regions.iter().filter(|region| region.containers > 0);
    let registered = charged.map(|region| region.range.len()).sum();
    let total = world.locked();
    let mut tables = Tables {
        locked: Locked { total, registered, tables: total.saturating_sub(registered) },
        registered: regions
            .iter()
            .map(|region| RegionRow {
                memory: world.places.show(region.range.start()),
                size: region.range.len(),
                carries: region.carries.bytes(),
                leases: region.leases,
                mapped: region.mapped,
                containers: region.containers,
            })
            .collect(),
        leases: world
            .leases
            .iter()
            .map(|held| LeaseRow {
                lease: held.name.clone(),
                memory: world.places.show(held.lease.range().start()),
                size: held.lease.range().len(),
            })
            .collect(),
        ..Tables::default()
    };
    for (name, space) in &world.spaces {
        add_space(world, name, &space.space, &mut tables);
    }
    tables
}

fn add_space(world: &World<'_>, name: &str, space: &spapr_iommu::space::AddressSpace, tables: &mut Tables) {
    let status = space.status();
    let index = |number| world.groups.iter().position(|group| group.number == number).unwrap_or(usize::MAX);
    tables.groups.extend(status.groups.iter().map(|group| GroupRow {
        space: name.to_owned(),
        group: index(group.group),
        container: group.container,
    }));
    let waiting = status.facts.and_then(|facts| facts.default).filter(|_| status.default == DefaultWindow::Pending);
    tables.windows.extend(waiting.map(|range| WindowRow {
        space: name.to_owned(),
        name: None,
        start: range.start().to_string(),
        size: range.len(),
        page: DEFAULT_PAGE.bytes(),
        levels: None,
        origin: "default".into(),
        mapped: 0,
    }));
    let mut windows = status.windows;
    windows.sort_by_key(|(window, _)| window.range);
    tables.windows.extend(windows.iter().map(|(window, mapped)| WindowRow {
        space: name.to_owned(),
        name: world.window_name(name, window.range.start()).map(str::to_owned),
        start: window.range.start().to_string(),
        size: window.range.len(),
        page: window.page.bytes(),
        levels: Some(window.levels),
        origin: window.origin.to_string(),
        mapped: *mapped,
    }));
    tables.maps.extend(space.mappings().iter().map(|mapping| MapRow {
        space: name.to_owned(),
        iova: mapping.iova.start().to_string(),
        size: mapping.iova.len(),
        memory: world.places.show(mapping.user),
        access: mapping.permission.to_string(),
    }));
}
