//! Traps between calls, and calls that crash the machine.

use crate::fixture::{Fixture, K4, K64, iova};
use crate::rule;
use spapr_iommu::addr::{Iova, IovaRange, PageShift};
use spapr_iommu::host::{Errno, MemlockError, Platform};
use spapr_iommu::model::Violation;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::PinError;
use spapr_iommu::space::{AttachError, MapError, WindowError};
use spapr_iommu::uapi::spapr;
use spapr_iommu::window::{PlanError, WindowRequest};
use std::fs;

const RW: Permission = Permission::ReadWrite;

/// Each failure charges the table that was not made, until the process ends.
pub(crate) fn create_that_the_platform_refuses_leaks_its_charge(fixture: &Fixture) {
    // pseries has one level; powernv cannot allocate 128 MiB of table in one piece.
    let (shift, size, levels, errno, charge) = if fixture.powernv() {
        (16, 1 << 40, 1, Errno::ENOMEM, 256 << 20)
    } else {
        (16, 1 << 30, 2, Errno::EINVAL, 0xffff_ffff & !(fixture.page() - 1).cast_signed())
    };
    fixture.scars(|| {
        let raw = fixture.v2();
        assert_eq!(raw.remove(0), Ok(0));
        for _ in 0..2 {
            let (result, cost) = fixture.cost(|| raw.create(shift, size, levels));
            assert_eq!((result, cost), (Err(errno), charge));
        }
        drop(raw);
        assert!(fixture.locked() >= 2 * charge, "closing gives nothing back");
        fixture.on_model(|model| {
            assert!(matches!(model.violations()[..], [Violation::LeakedCharge { .. }, Violation::LeakedCharge { .. }]))
        });
    });
    // The plan chooses a number of levels that works.
    let library = fixture.library();
    let page = fixture.preset.page.shift();
    if fixture.powernv() {
        let plan = library.space.plan(&WindowRequest::bytes(size).page(page)).unwrap();
        assert!(plan.window.levels > 1, "{plan:?}");
    }
    let window = library.space.create_window(&WindowRequest::bytes(1 << 30).page(page)).unwrap();
    assert_eq!(window.levels, 1);
}

/// A window's table counts, and failing the limit is the one failure that leaks nothing.
pub(crate) fn create_over_the_limit_is_enomem_and_leaks_nothing(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.remove(0), Ok(0));
    let limit = fixture.limit(K64);
    let (result, cost) = fixture.cost(|| raw.create(12, 1 << 30, 1));
    drop(limit);
    assert_eq!((result, cost), (Err(Errno::ENOMEM), 0));
    drop(raw);

    let library = fixture.library();
    library.calls();
    let limit = fixture.limit(K64);
    let refused = library.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap_err();
    drop(limit);
    let WindowError::Refused(PlanError::Memlock(MemlockError::OverLimit { .. })) = refused else { panic!("{refused}") };
    assert!(library.calls().is_empty(), "the kernel was asked");
}

/// TCEs of another window are charged twice on powernv: the hardware's table and the kernel's list
/// of user addresses.
pub(crate) fn create_charges_its_table_and_on_powernv_twice(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.remove(0), Ok(0));
    let (start, cost) = fixture.cost(|| raw.create(12, 1 << 30, 1));
    let table = (1 << 30 >> 12) * 8;
    assert_eq!(cost, if fixture.powernv() { 2 * table } else { table });
    let (result, back) = fixture.cost(|| raw.remove(start.unwrap()));
    assert_eq!((result, back), (Ok(0), -cost));
    drop(raw);

    let library = fixture.library();
    library.space.drop_default_window().unwrap();
    let request = WindowRequest::bytes(1 << 30).page(PageShift::P4K);
    let planned = library.space.plan(&request).unwrap().locked_bytes;
    let (window, cost) = fixture.cost(|| library.space.create_window(&request).unwrap());
    assert_eq!((planned.cast_signed(), window.page), (cost, PageShift::P4K));
}

/// The firmware refuses, and from then on the kernel creates no window for the PE, for any process.
pub(crate) fn second_dynamic_window_puts_the_pe_out_of_use(fixture: &Fixture) {
    // The plan counts windows, and the kernel is not asked.
    let library = fixture.library();
    library.space.drop_default_window().unwrap();
    let page = fixture.preset.page.shift();
    let window = library.space.create_window(&WindowRequest::bytes(4 << 30).page(page)).unwrap();
    library.calls();
    let further = WindowRequest::cover(iova(window.range.end().0, 1 << 20));
    let refused = library.space.create_window(&further).unwrap_err();
    assert!(matches!(refused, WindowError::Refused(_)) && library.calls().is_empty(), "{refused}");
    drop(library);

    fixture.scars(|| {
        let raw = fixture.v2();
        assert_eq!(raw.remove(0), Ok(0));
        assert!(raw.create(16, 1 << 30, 1).is_ok());
        assert_eq!(raw.create(16, 1 << 30, 1), Err(Errno::ENODEV));
        drop(raw);
        let raw = fixture.v2();
        raw.registered(K64);
        assert_eq!(raw.map(fixture.memory(K64).start(), 0, K4), Err(Errno::ENODEV), "not even the default window");
        assert_eq!(raw.create(16, 1 << 30, 1), Err(Errno::ENODEV));
        let group = fixture.groups[0].0;
        fixture.on_model(|model| assert!(model.violations().contains(&Violation::Poisoned { group: group.0 })));
    });
}

/// A table belongs to one PE: with two groups no window can be created.
pub(crate) fn second_group_in_a_container_takes_its_windows_on_pseries(fixture: &Fixture) {
    fixture.scars(|| {
        let raw = fixture.container(spapr::TCE_V2_IOMMU, &[0, 1]);
        let memory = raw.registered(K64);
        assert_eq!(raw.map(memory.start(), 0, K4), Err(Errno::EPERM));
        assert_eq!(raw.create(16, 1 << 30, 1), Err(Errno::EPERM));
        fixture.on_model(|model| assert!(matches!(model.violations()[0], Violation::SecondGroup { .. })));
    });
    // Each group gets a container of its own; both see the same.
    let library = fixture.library();
    let [first, second] = [0, 1].map(|at| fixture.groups[at].0);
    let beside = library.space.attach_beside(second, first).unwrap_err();
    assert!(matches!(beside, AttachError::OneGroup { platform: Platform::Pseries, .. }), "{beside}");
    library.space.attach(second).unwrap();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0, K64), memory.start(), RW).unwrap();
    library.space.unmap(iova(0, K64)).unwrap();
}

/// Everything that the container maps is gone, also for the groups that stay.
pub(crate) fn detach_of_one_group_wipes_what_all_share(fixture: &Fixture) {
    let raw = fixture.container(spapr::TCE_V2_IOMMU, &[0, 1]);
    let memory = raw.registered(K64);
    assert_eq!(raw.map(memory.start(), 0, K64), Ok(0));
    assert_eq!(raw.detach(1), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    // The library maps everything again, or shares no container to begin with.
    let library = fixture.library();
    let [first, second] = [0, 1].map(|at| fixture.groups[at].0);
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0, K64), memory.start(), RW).unwrap();
    let entries = |expected: usize| {
        fixture.on_model(|model| {
            let tables = model.containers().into_iter().map(|container| model.tables(container)[0].entries.len());
            assert_eq!(tables.collect::<Vec<_>>(), vec![1; expected]);
        });
    };
    library.space.attach_beside(second, first).unwrap();
    library.calls();
    library.space.detach(second).unwrap();
    assert!(library.calls().contains(&"VFIO_IOMMU_MAP_DMA"), "what was wiped is mapped again");
    entries(1);
    library.space.attach(second).unwrap();
    library.calls();
    library.space.detach(second).unwrap();
    assert_eq!(library.space.mapped().1, K64);
    entries(1);
    library.space.unmap(iova(0, K64)).unwrap();
    assert!(rule::powernv(&fixture.preset));
}

/// The watchdog notices a hung CPU, and should end the machine soon.
fn watch(fixture: &Fixture) {
    if !fixture.is_model() {
        fs::write("/proc/sys/kernel/softlockup_panic", "1").unwrap();
        fs::write("/proc/sys/kernel/watchdog_thresh", "3").unwrap();
    }
}

/// After a refusal: a valid map in the same place.
fn works_on(library: &crate::fixture::Library<'_>) {
    let (memory, lease) = library.leased(K64);
    library.space.map(iova(0, K4), memory.start(), RW).unwrap();
    library.space.unmap(iova(0, K4)).unwrap();
    lease.release().unwrap();
}

/// One page more than the window has: an oops.
pub(crate) fn map_past_the_end_of_a_window_is_an_oops_on_pseries(fixture: &Fixture) {
    let end = fixture.default_window();
    fixture.scars(|| {
        let raw = fixture.v2();
        let memory = raw.registered(K64);
        let outcome = raw.map(memory.start(), end - K4, 2 * K4);
        let (start, window) = (Iova(end - K4), iova(0, end));
        let expected = Violation::MapPastWindow { start, size: 2 * K4, window, fatal: true };
        fixture.on_model(|model| assert_eq!(model.violations(), [expected]));
        outcome
    });
    let library = fixture.library();
    let (memory, lease) = library.leased(K64);
    let asked = iova(end - K4, 2 * K4);
    let refused = library.space.map(asked, memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::NoWindow { asked: named, .. } if named == asked), "{refused}");
    lease.release().unwrap();
    works_on(&library);
}

/// The loop that makes PHB3 forget TCEs does not end for a count of zero.
pub(crate) fn map_of_no_bytes_at_0_hangs_power8(fixture: &Fixture) {
    fixture.scars(|| {
        watch(fixture);
        let raw = fixture.v2();
        let memory = raw.registered(K64);
        let outcome = raw.map(memory.start(), 0, 0);
        let expected = Violation::EmptyMap { start: Iova(0) };
        fixture.on_model(|model| assert_eq!(model.violations(), [expected]));
        outcome
    });
    // A range always has at least one byte.
    assert!(IovaRange::new(Iova(0), 0).is_err());
    works_on(&fixture.library());
}

/// The same loop, reached by an UNMAP.
pub(crate) fn unmap_of_no_bytes_at_0_hangs_power8(fixture: &Fixture) {
    fixture.scars(|| {
        watch(fixture);
        let raw = fixture.v2();
        raw.registered(K64);
        let outcome = raw.unmap(0, 0);
        let expected = Violation::EmptyUnmap { start: Iova(0) };
        fixture.on_model(|model| assert_eq!(model.violations(), [expected]));
        outcome
    });
    assert!(IovaRange::new(Iova(0), 0).is_err());
    works_on(&fixture.library());
}

/// The rollback of a map that fails at its first page covers no page.
pub(crate) fn map_at_0_that_fails_at_once_hangs_power8(fixture: &Fixture) {
    fixture.scars(|| {
        watch(fixture);
        let raw = fixture.v2();
        raw.registered(K64);
        let outcome = raw.map(fixture.memory(K64).start(), 0, K4);
        let expected = Violation::FailedMapAtZero { size: K4 };
        fixture.on_model(|model| assert_eq!(model.violations(), [expected]));
        outcome
    });
    let library = fixture.library();
    let stranger = fixture.memory(K64);
    let refused = library.space.map(iova(0, K4), stranger.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::Memory(PinError::NotRegistered { .. })), "{refused}");
    works_on(&library);
}
