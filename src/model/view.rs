//! Views of the kernel's state, for tests.

use super::dma;
use super::vfio::State;
use crate::addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
use crate::permission::Permission;

/// A window's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableView {
    /// Bus addresses; may be more than requested.
    pub range: IovaRange,
    /// IOMMU page.
    pub page: PageShift,
    /// Mappings in address order; entries that continue each other are one run.
    pub entries: Vec<EntryView>,
}

/// A run of TCEs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryView {
    /// Bus addresses.
    pub iova: IovaRange,
    /// User address that was mapped there.
    pub user: UserAddr,
    /// Permission in the TCE's bits; on powernv WRITE has become READ and WRITE.
    pub permission: Permission,
}

/// A registered region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegionView {
    /// User addresses at the time it was registered.
    pub range: UserRange,
    /// Number of containers that registered it; an orphan counts one as well.
    pub used: u64,
    /// Number of TCEs that point into it (the kernel's counter minus 1).
    pub mapped: u64,
    /// The largest IOMMU page it serves, as a power of two.
    pub page_shift: u32,
    /// Whether no container holds it; then it is never freed again.
    pub orphan: bool,
}

/// Returns the groups in a container, newest first.
pub(super) fn groups(state: &State, container: u32) -> Vec<u32> {
    state.containers.get(&container).map(|container| container.groups.clone()).unwrap_or_default()
}

/// Reads as devices in a container do.
pub(super) fn device_read(state: &mut State, container: u32, iova: Iova, data: &mut [u8]) {
    let State { kernel, containers, .. } = state;
    match containers.get(&container).and_then(|container| container.driver.as_ref()) {
        Some(driver) => {
            let result = dma::read(&kernel.preset, driver, &kernel.process.physical, iova.0, data);
            kernel.violations.extend(result.err());
        }
        None => data.fill(0),
    }
}

/// Returns the tables of a container, slot 0 first.
pub(super) fn tables(state: &State, container: u32) -> Vec<TableView> {
    let driver = state.containers.get(&container).and_then(|container| container.driver.as_ref());
    let tables = driver.iter().flat_map(|driver| driver.tables.iter().flatten());
    tables
        .filter_map(|table| {
            let entries = table.runs.iter().filter_map(|(at, tce)| {
                let start = at.start << table.shift;
                Some(EntryView {
                    iova: IovaRange::new(Iova(start), (at.end - at.start) << table.shift).ok()?,
                    user: UserAddr(start.wrapping_add(tce.user)),
                    permission: Permission::from_bits(tce.bits)?,
                })
            });
            Some(TableView { range: table.range()?, page: PageShift::new(table.shift)?, entries: entries.collect() })
        })
        .collect()
}

/// Returns the regions, newest first.
pub(super) fn regions(state: &State) -> Vec<RegionView> {
    let held = |start: u64| {
        let mut drivers = state.containers.values().filter_map(|container| container.driver.as_ref());
        drivers.any(|driver| driver.registered.contains(&start))
    };
    let views = state.kernel.regions.newest_first().into_iter().map(|region| RegionView {
        range: region.user,
        used: region.used,
        mapped: region.mapped - 1,
        page_shift: region.page_shift,
        orphan: !held(region.range.start),
    });
    views.collect()
}
