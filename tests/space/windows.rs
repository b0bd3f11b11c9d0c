//! Windows: planned, requested, created on demand, removed; those that one call, or containers that
//! joined late, need at the same time.

use crate::fixture::{BIG, Fixture, PRESETS, RW, at, iova};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::model::Model;
use spapr_iommu::space::{MapError, MapRequest, Overlap, WindowError};
use spapr_iommu::window::{DefaultWindow, Origin, PlanError, Reason, WindowRequest};
use spapr_iommu_tests::by_address::ByAddress;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

fn refusal(error: WindowError) -> PlanError {
    match error {
        WindowError::Refused(refusal) => refusal,
        other => panic!("{other}"),
    }
}

#[test]
fn a_plan_says_what_the_kernel_then_does() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let request = WindowRequest::bytes(4 * G);
        let plan = fixture.space.plan(&request).unwrap();
        assert_eq!(fixture.model.locked(), 0, "a plan asks nothing");
        let window = fixture.space.create_window(&request).unwrap();
        assert_eq!(fixture.model.locked(), plan.locked_bytes, "{preset}");
        assert_eq!((window.range.len(), window.page), (plan.window.size, plan.window.page));
        assert_eq!(window.range.start(), Iova(BIG));
        assert!(plan.window.start.is_none_or(|start| start == Iova(BIG)));
        let container = fixture.model.containers()[0];
        let real = fixture.model.tables(container).last().unwrap().range;
        assert_eq!(real, window.range, "{preset}: the table is as large as planned, not larger");
        fixture.space.remove_window(Iova(BIG)).unwrap();
        fixture.space.drop_default_window().unwrap();
        assert_eq!(fixture.model.locked(), 0);
        fixture.ends_clean();
    }
}

#[test]
fn a_refused_plan_costs_nothing() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let plan = |request: WindowRequest| refusal(fixture.space.create_window(&request).unwrap_err());
        assert!(matches!(
            plan(WindowRequest::bytes(G).page(PageShift::new(13).unwrap())),
            PlanError::PageUnsupported { .. }
        ));
        assert!(matches!(plan(WindowRequest::bytes(u64::MAX)), PlanError::TooLarge { .. }));
        assert!(matches!(plan(WindowRequest::bytes(G).reach(u64::from(u32::MAX))), PlanError::BeyondDevice { .. }));
        let large = if preset.starts_with("powernv8") { PageShift::P16M } else { PageShift::P2M };
        assert!(matches!(plan(WindowRequest::bytes(G).page(large)), PlanError::PageTooLarge { .. }));
        fixture.space.create_window(&WindowRequest::bytes(G)).unwrap();
        assert!(matches!(plan(WindowRequest::bytes(G)), PlanError::NoFreeWindow { .. }));
        assert!(matches!(fixture.space.remove_window(Iova(BIG + 0x10000)), Err(WindowError::Refused(_))));
        fixture.agrees();
    }
}

#[test]
fn a_second_ddw_is_never_asked_of_pseries_firmware() {
    let fixture = Fixture::new("pseries-64k");
    fixture.space.drop_default_window().unwrap();
    fixture.space.create_window(&WindowRequest::bytes(G)).unwrap();
    let error = refusal(fixture.space.create_window(&WindowRequest::bytes(G)).unwrap_err());
    assert!(matches!(error, PlanError::SecondDdw { .. }), "{error}");
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn firmware_without_ddw_is_named_before_anything_is_tried() {
    for preset in ["pseries-noddw", "pseries-noddw-4k", "pseries-noddw-64k-7.2"] {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(M);
        let lease = fixture.registry.lease(ram).unwrap();
        let error = fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap_err();
        assert_eq!(error, MapError::NoWindow { asked: iova(0, M), why: PlanError::NoDdw });
        drop(lease);
        fixture.ends_clean();
    }
}

#[test]
fn a_small_4k_window_brings_the_default_window_of_pseries_back() {
    let fixture = Fixture::new("pseries-64k");
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.lease(ram).unwrap();
    fixture.space.drop_default_window().unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    let status = fixture.space.status();
    assert_eq!((status.default, status.windows[0].0.origin), (DefaultWindow::Live, Origin::Default));
    fixture.agrees();
}

#[test]
fn a_demand_window_goes_when_nothing_is_left_in_it() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(4 * M);
        let lease = fixture.registry.lease(ram).unwrap();
        fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
        fixture.space.trim().unwrap();
        assert_eq!(fixture.space.translate(Iova(BIG)).unwrap().user, at(ram, 0));
        fixture.space.unmap(iova(BIG, M)).unwrap();
        fixture.space.trim().unwrap();
        assert!(fixture.space.status().windows.iter().all(|(window, _)| window.origin == Origin::Default));
        drop(lease);
        fixture.ends_clean();
    }
}

#[test]
fn what_is_asked_decides_how_large_a_window_is() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(4 * M);
        let _lease = fixture.registry.lease(ram).unwrap();
        fixture.space.reserve(iova(BIG, 2 * G)).unwrap();
        assert_eq!(fixture.space.reserve(iova(BIG + 4 * G, G)).unwrap().range, iova(BIG, 8 * G));
        fixture.space.map(iova(BIG + 5 * G - M, M), at(ram, 0), RW).unwrap();
        // In use now: it cannot be removed under the device.
        let error = refusal(fixture.space.reserve(iova(BIG + 8 * G, G)).unwrap_err());
        assert!(matches!(error, PlanError::TooSmall { .. }), "{error}");
        assert!(matches!(refusal(fixture.space.remove_window(Iova(BIG)).unwrap_err()), PlanError::InUse { .. }));
        fixture.space.unmap(iova(BIG, 8 * G)).unwrap();
        fixture.space.unreserve(iova(BIG + 4 * G, G)).unwrap();
        assert_eq!(fixture.space.reserve(iova(BIG, G)).unwrap().range, iova(BIG, 8 * G), "still asked for");
        fixture.space.unreserve(iova(BIG, 2 * G)).unwrap();
        assert!(fixture.space.status().windows.iter().all(|(window, _)| window.origin == Origin::Default));
        fixture.agrees();
    }
}

#[test]
fn one_window_firmware_gets_its_default_window_dropped_first() {
    let preset: spapr_iommu::model::Preset = "pseries-64k".parse().unwrap();
    let spapr_iommu::model::Machine::Pseries(firmware) = preset.machine else { panic!("{preset}") };
    let firmware = spapr_iommu::model::Firmware { windows: 1, ..firmware };
    let machine = spapr_iommu::model::Machine::Pseries(firmware);
    let fixture = Fixture::with(Model::new(spapr_iommu::model::Preset { machine, ..preset }));
    fixture.space.attach(Group(0)).unwrap();
    let plan = fixture.space.plan(&WindowRequest::bytes(G)).unwrap();
    assert!(plan.reasons.contains(&Reason::DefaultMakesRoom));
    fixture.space.create_window(&WindowRequest::bytes(G)).unwrap();
    assert_eq!(fixture.space.status().default, DefaultWindow::Gone);
    fixture.agrees();
}

#[test]
fn a_window_that_is_there_serves_only_what_was_asked() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(4 * M);
    let _lease = fixture.registry.lease(ram).unwrap();
    let request = WindowRequest::cover(iova(0, M)).page(PageShift::P64K);
    assert!(matches!(refusal(fixture.space.create_window(&request).unwrap_err()), PlanError::OtherPage { .. }));
    fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
    let request = WindowRequest::cover(iova(BIG, M));
    let error = refusal(fixture.space.create_window(&request.reach(u64::from(u32::MAX))).unwrap_err());
    assert!(matches!(error, PlanError::BeyondDevice { .. }), "{error}");
    // Created on demand, then requested: from now on it stays.
    let window = fixture.space.create_window(&request).unwrap();
    fixture.space.unmap(iova(BIG, M)).unwrap();
    fixture.space.trim().unwrap();
    assert!(fixture.space.status().windows.iter().any(|(there, _)| there.range == window.range));
    fixture.agrees();
}

#[test]
fn the_default_window_of_pseries_comes_back_whole() {
    let fixture = Fixture::new("pseries-64k");
    let ram = fixture.allocate(4 * M);
    let _lease = fixture.registry.lease(ram).unwrap();
    fixture.space.drop_default_window().unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    fixture.space.map(iova(512 * M, M), at(ram, 0), RW).unwrap();
    fixture.space.attach(Group(1)).unwrap();
    let ranges = |container| fixture.model.tables(container).iter().map(|table| table.range).collect::<Vec<_>>();
    for container in fixture.model.containers() {
        assert_eq!(ranges(container), [iova(0, G)]);
    }
    fixture.agrees();
}

#[test]
fn one_call_may_map_in_both_windows() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(4 * M);
        let _lease = fixture.registry.lease(ram).unwrap();
        let request = |start| MapRequest { iova: iova(start, M), user: at(ram, 0), permission: RW };
        fixture.space.map_all(&[request(BIG), request(0)], Overlap::Refuse).unwrap();
        assert_eq!(fixture.space.status().windows.len(), 2);
        fixture.agrees();
    }
}

#[test]
fn without_a_group_there_is_nothing_to_trim() {
    let fixture = Fixture::with(Model::new("powernv9-64k".parse().unwrap()));
    assert_eq!(fixture.space.trim(), Ok(()));
    assert_eq!(fixture.space.create_window(&WindowRequest::bytes(G)), Err(WindowError::NoGroup));
}

/// A space in whose second container the default window, which the first one has, is still pending.
fn with_a_late_container(model: Model) -> Fixture {
    let fixture = Fixture::with(model);
    fixture.space.attach(Group(0)).unwrap();
    fixture.space.create_window(&WindowRequest::bytes(G)).unwrap();
    fixture.space.remove_window(Iova(BIG)).unwrap();
    fixture.space.attach(Group(1)).unwrap();
    assert_eq!(fixture.space.status().default, DefaultWindow::Live);
    fixture
}

#[test]
fn a_small_4k_window_elsewhere_is_not_the_default_window_again() {
    for preset in ["pseries-1window", "pseries-1window-4k", "pseries"] {
        let fixture = Fixture::new(preset);
        fixture.space.drop_default_window().unwrap();
        let request = WindowRequest::cover(iova(BIG, M)).page(PageShift::P4K);
        assert!(fixture.space.plan(&request).unwrap().reasons.contains(&Reason::BeyondDefault));
        let window = fixture.space.create_window(&request).unwrap();
        assert_eq!(window.range, iova(BIG, 2 * G), "{preset}");
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn a_plan_counts_the_default_window_where_it_waits_still() {
    for preset in ["powernv9-64k", "pseries-4k"] {
        let fixture = with_a_late_container(Model::new(preset.parse().unwrap()));
        let before = fixture.model.locked();
        let plan = fixture.space.plan(&WindowRequest::bytes(G)).unwrap();
        assert!(plan.reasons.contains(&Reason::CreatesDefault), "{preset}");
        fixture.space.create_window(&WindowRequest::bytes(G)).unwrap();
        assert_eq!(fixture.model.locked() - before, plan.locked_bytes, "{preset}");
        let again = fixture.space.remove_window(Iova(BIG)).and_then(|()| fixture.space.plan(&WindowRequest::bytes(G)));
        assert!(!again.unwrap().reasons.contains(&Reason::CreatesDefault), "it has come");
        fixture.ends_clean();
    }
}

#[test]
fn a_default_window_that_waits_is_afforded_before_it_is_mapped_in() {
    let limit = |bytes| Model::new("powernv9-64k".parse().unwrap()).with_memlock(Some(bytes));
    // A default window takes 8 MiB, the memory 1 MiB.
    let fixture = with_a_late_container(limit(17 * M));
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.lease(ram).unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    fixture.agrees();
    let fixture = with_a_late_container(limit(16 * M));
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.lease(ram).unwrap();
    let error = fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap_err();
    assert!(matches!(error, MapError::Window(WindowError::Refused(PlanError::Memlock(_)))), "{error}");
    fixture.agrees();
}

#[test]
fn a_default_window_that_waits_in_one_container_only_is_removed_from_all() {
    let fixture = with_a_late_container(Model::new("powernv9-64k".parse().unwrap()));
    fixture.space.drop_default_window().unwrap();
    let window = fixture.space.create_window(&WindowRequest::bytes(G)).unwrap();
    assert_eq!(window.range.start(), Iova(BIG));
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn one_call_never_asks_for_two_windows_where_there_is_one() {
    for dropped in [false, true] {
        let fixture = Fixture::new("pseries-1window");
        if dropped {
            fixture.space.drop_default_window().unwrap();
        }
        let ram = fixture.allocate(M);
        let _lease = fixture.registry.lease(ram).unwrap();
        let request = |start| MapRequest { iova: iova(start, M), user: at(ram, 0), permission: RW };
        let error = fixture.space.map_all(&[request(BIG), request(0)], Overlap::Refuse).unwrap_err();
        assert!(matches!(error, MapError::NoWindow { why: PlanError::OnlyWindowInUse, .. }), "{error}");
        fixture.agrees();
        fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
        fixture.agrees();
    }
}

#[test]
fn windows_of_one_call_are_afforded_together() {
    // The default window takes 8 MiB, one of 64 Ki TCEs in 64 KiB pages 1 MiB, the memory 1 MiB.
    let fixture = Fixture::with(Model::new("powernv9-64k".parse().unwrap()).with_memlock(Some(9 * M)));
    fixture.space.attach(Group(0)).unwrap();
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.lease(ram).unwrap();
    let request = |start| MapRequest { iova: iova(start, M), user: at(ram, 0), permission: RW };
    let error = fixture.space.map_all(&[request(BIG), request(0)], Overlap::Refuse).unwrap_err();
    assert!(matches!(error, MapError::NoWindow { why: PlanError::Memlock(_), .. }), "{error}");
    fixture.agrees();
    assert_eq!(fixture.model.leaks(), []);
}

#[test]
fn a_window_that_a_call_maps_in_is_not_made_anew_by_it() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(4 * M);
    let _lease = fixture.registry.lease(ram).unwrap();
    let request = |start, user, len| MapRequest { iova: iova(start, len), user: at(ram, user), permission: RW };
    // An idle window of small pages, and one call that maps a small page in it and large ones after
    // it.
    fixture.space.map_all(&[request(BIG, 0x1000, 0x1000)], Overlap::Refuse).unwrap();
    fixture.space.unmap(iova(BIG, M)).unwrap();
    let end = fixture.space.status().windows.iter().map(|(window, _)| window.range.end().0).max().unwrap();
    let requests = [request(BIG, 0x1000, 0x1000), request(end, 0, M)];
    let error = fixture.space.map_all(&requests, Overlap::Refuse).unwrap_err();
    assert!(matches!(error, MapError::NoWindow { why: PlanError::TooSmall { .. }, .. }), "{error}");
    fixture.agrees();
}

#[test]
fn no_requests_are_no_call() {
    let fixture = with_a_late_container(Model::new("pseries".parse().unwrap()));
    fixture.space.map_all(&[], Overlap::Replace).unwrap();
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn what_was_reserved_in_a_window_goes_with_it() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let large = fixture.space.reserve(iova(BIG, 64 * G)).unwrap().range.len();
        fixture.space.discard_window(Iova(BIG)).unwrap();
        let small = fixture.space.reserve(iova(BIG, M)).unwrap().range.len();
        assert!(small < large, "{preset}: {small:#x} of {large:#x} bytes");
        fixture.space.unreserve(iova(BIG, M)).unwrap();
        fixture.agrees();
        fixture.ends_clean();
    }
}
