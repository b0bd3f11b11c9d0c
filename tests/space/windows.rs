//! Windows: planned, asked, made on demand, removed.

use crate::fixture::{BIG, Fixture, PRESETS, RW, at, iova};
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::model::Model;
use spapr_iommu::space::{MapError, MapRequest, Overlap, WindowError};
use spapr_iommu::window::{DefaultWindow, Origin, PlanError, Reason, WindowRequest};

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
        let lease = fixture.registry.register(ram).unwrap();
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
    let _lease = fixture.registry.register(ram).unwrap();
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
        let lease = fixture.registry.register(ram).unwrap();
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
        let _lease = fixture.registry.register(ram).unwrap();
        fixture.space.reserve(iova(BIG, 2 * G)).unwrap();
        assert_eq!(fixture.space.reserve(iova(BIG + 4 * G, G)).unwrap().range, iova(BIG, 8 * G));
        fixture.space.map(iova(BIG + 5 * G - M, M), at(ram, 0), RW).unwrap();
        // In use now: nobody takes it from under the device.
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
    fixture.space.attach(0).unwrap();
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
    let _lease = fixture.registry.register(ram).unwrap();
    let request = WindowRequest::cover(iova(0, M)).page(PageShift::P64K);
    assert!(matches!(refusal(fixture.space.create_window(&request).unwrap_err()), PlanError::OtherPage { .. }));
    fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
    let request = WindowRequest::cover(iova(BIG, M));
    let error = refusal(fixture.space.create_window(&request.reach(u64::from(u32::MAX))).unwrap_err());
    assert!(matches!(error, PlanError::BeyondDevice { .. }), "{error}");
    // Made on demand, then asked for: now it stays.
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
    let _lease = fixture.registry.register(ram).unwrap();
    fixture.space.drop_default_window().unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    fixture.space.map(iova(512 * M, M), at(ram, 0), RW).unwrap();
    fixture.space.attach(1).unwrap();
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
        let _lease = fixture.registry.register(ram).unwrap();
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
