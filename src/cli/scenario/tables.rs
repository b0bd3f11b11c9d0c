//! Collects the state at one moment, in the order of the scenario.

use super::context::Context;
use super::report::{GroupRow, LeaseRow, Locked, MapRow, RegionRow, Tables, WindowRow};
use spapr_iommu::window::{DEFAULT_PAGE, DefaultWindow};

pub(super) fn tables(context: &Context<'_>) -> Tables {
    let mut regions = context.registry.regions();
    regions.sort_by_key(|region| context.places.rank(region.range.start()));
    let charged = regions.iter().filter(|region| region.containers > 0);
    let registered = charged.map(|region| region.range.len()).sum();
    let total = context.locked();
    let mut tables = Tables {
        locked: Locked { total, registered, tables: total.saturating_sub(registered) },
        registered: regions
            .iter()
            .map(|region| RegionRow {
                memory: context.places.show(region.range.start()),
                size: region.range.len(),
                max_iommu_page: region.max_iommu_page.bytes(),
                leases: region.leases,
                mapped: region.mapped,
                containers: region.containers,
            })
            .collect(),
        leases: context
            .leases
            .iter()
            .map(|held| LeaseRow {
                lease: held.name.clone(),
                memory: context.places.show(held.lease.range().start()),
                size: held.lease.range().len(),
            })
            .collect(),
        ..Tables::default()
    };
    for (name, space) in &context.spaces {
        add_space(context, name, &space.space, &mut tables);
    }
    tables
}

fn add_space(context: &Context<'_>, name: &str, space: &spapr_iommu::space::AddressSpace, tables: &mut Tables) {
    let status = space.status();
    let index = |number| context.groups.iter().position(|group| group.number == number).unwrap_or(usize::MAX);
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
        name: context.window_name(name, window.range.start()).map(str::to_owned),
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
        memory: context.places.show(mapping.user),
        access: mapping.permission.to_string(),
    }));
}
