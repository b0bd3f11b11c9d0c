//! Locked memory: what windows charge, and whether the charge is returned.

use crate::fixture::{Fixture, K4, K64, iova};
use crate::raw::Raw;
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::{Call, Errno, Host};
use spapr_iommu::permission::Permission;
use spapr_iommu::space::WindowError;
use spapr_iommu::uapi::spapr::TCE_V2_IOMMU;
use spapr_iommu::window::{PlanError, WindowRequest};

/// Charge of the default window's table: on powernv the TCEs, and as much again for user addresses.
pub(crate) fn default_charge(fixture: &Fixture) -> i64 {
    if fixture.powernv() { 8 << 20 } else { 2 << 20 }
}

/// Charge of 2^14 TCEs.
pub(crate) fn small_charge(fixture: &Fixture) -> i64 {
    if fixture.powernv() { 256 << 10 } else { 128 << 10 }
}

/// Opens a v2 container whose default window was cancelled.
pub(crate) fn without_default(fixture: &Fixture) -> Raw<'_> {
    let raw = fixture.v2();
    assert_eq!(raw.remove(0), Ok(0));
    raw
}

/// Returns what is still locked once everything is closed.
fn left(fixture: &Fixture, raw: Raw<'_>) -> i64 {
    drop(raw);
    fixture.locked()
}

pub(crate) fn the_default_window_is_charged_when_it_comes(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(fixture.locked(), 0);
    let memory = raw.registered(K64);
    let charge = default_charge(fixture);
    assert_eq!(fixture.cost(|| raw.map(memory.start(), 0, K4)), (Ok(0), charge));
    assert_eq!(fixture.cost(|| raw.map(memory.start(), K4, K4)), (Ok(0), 0));
    assert_eq!(left(fixture, raw), 0);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    let plan = library.space.plan(&WindowRequest::cover(iova(0, K4))).unwrap();
    assert_eq!(plan.locked_bytes, charge.unsigned_abs());
    let (mapped, cost) = fixture.cost(|| library.space.map(iova(0, K4), memory.start(), Permission::ReadWrite));
    assert_eq!((mapped, cost), (Ok(()), charge));
    library.space.unmap(iova(0, K4)).unwrap();
}

/// ENABLE charged the whole window beforehand.
pub(crate) fn v1_is_charged_for_the_table_as_well(fixture: &Fixture) {
    let raw = fixture.v1();
    let memory = fixture.memory(K64);
    assert_eq!(fixture.cost(|| raw.call(Call::Enable)), (Ok(0), fixture.default_window().cast_signed()));
    assert_eq!(fixture.cost(|| raw.map(memory.start(), 0, K4)), (Ok(0), default_charge(fixture)));
    assert_eq!(left(fixture, raw), 0);

    // The library uses only v2 containers, where registered memory counts.
    let library = fixture.library_without_groups();
    library.space.attach(fixture.groups[0].0).unwrap();
    let calls: Vec<_> = fixture.kernel.take().iter().map(|record| record.call).collect();
    assert!(calls.contains(&Call::SetIommu(TCE_V2_IOMMU)) && !calls.contains(&Call::Enable), "{calls:?}");
    assert_eq!(fixture.locked(), 0);
}

/// All levels, twice, although leaves are allocated only when they are used.
pub(crate) fn a_table_of_levels_is_charged_in_full_on_powernv(fixture: &Fixture) {
    let raw = without_default(fixture);
    let directory = fixture.page().max(32 << 10).cast_signed();
    let charge = 2 * ((128 << 20) + directory);
    assert_eq!(fixture.cost(|| raw.create(12, 1 << 36, 2)), (Ok(0), charge));
    assert_eq!(left(fixture, raw), 0);

    let library = fixture.library();
    let request = WindowRequest::bytes(1 << 36).page(PageShift::P4K);
    let plan = library.space.plan(&request).unwrap();
    assert_eq!((plan.window.levels, plan.locked_bytes), (2, (charge + default_charge(fixture)).unsigned_abs()));
    let (_, cost) = fixture.cost(|| library.space.create_window(&request).unwrap());
    assert_eq!(cost, charge + default_charge(fixture));
}

/// `CAP_IPC_LOCK` lifts the limit; VmLck grows nevertheless.
pub(crate) fn with_the_capability_locked_memory_is_counted_and_not_limited(fixture: &Fixture) {
    let memlock = fixture.kernel.memlock().unwrap();
    assert!(memlock.unlimited, "{memlock}");
    let raw = without_default(fixture);
    let levels = if fixture.powernv() { 2 } else { 1 };
    let (_, cost) = fixture.cost(|| raw.create(12, 1 << 33, levels).unwrap());
    assert!(cost >= 16 << 20 && memlock.limit.is_none_or(|limit| cost.unsigned_abs() > limit), "{cost} {memlock}");
    assert_eq!(left(fixture, raw), 0);

    let library = fixture.library();
    let request = WindowRequest::bytes(1 << 33).page(PageShift::P4K);
    assert_eq!(library.space.create_window(&request).map(|window| window.range.len()), Ok(1 << 33));
}

pub(crate) fn what_is_refused_before_the_charge_loses_nothing(fixture: &Fixture) {
    let raw = without_default(fixture);
    let none = |shift, size, levels| fixture.cost(|| raw.create(shift, size, levels));
    assert_eq!(none(13, 1 << 30, 1), (Err(Errno::EINVAL), 0), "no such page");
    assert_eq!(none(16, 0, 1), (Err(Errno::EINVAL), 0), "an empty table");
    drop(raw);

    let library = fixture.library();
    library.calls();
    let page = PageShift::new(13).unwrap();
    let refused = library.space.create_window(&WindowRequest::bytes(1 << 30).page(page)).unwrap_err();
    assert!(matches!(refused, WindowError::Refused(PlanError::PageUnsupported { .. })), "{refused}");
    assert_eq!(library.calls(), [""; 0], "the kernel was asked");
}
