//! Windows that one call, or containers that joined late, need at the same time.

use crate::fixture::{BIG, Fixture, RW, at, iova};
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::model::Model;
use spapr_iommu::space::{MapError, MapRequest, Overlap, WindowError};
use spapr_iommu::window::{DefaultWindow, PlanError, Reason, WindowRequest};

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// A space in whose second container the default window, which the first one has, waits still.
fn with_a_late_container(model: Model) -> Fixture {
    let fixture = Fixture::with(model);
    fixture.space.attach(0).unwrap();
    fixture.space.create_window(&WindowRequest::bytes(G)).unwrap();
    fixture.space.remove_window(Iova(BIG)).unwrap();
    fixture.space.attach(1).unwrap();
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
    let _lease = fixture.registry.register(ram).unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    fixture.agrees();
    let fixture = with_a_late_container(limit(16 * M));
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.register(ram).unwrap();
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
        let _lease = fixture.registry.register(ram).unwrap();
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
    fixture.space.attach(0).unwrap();
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.register(ram).unwrap();
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
    let _lease = fixture.registry.register(ram).unwrap();
    let request = |start, user, len| MapRequest { iova: iova(start, len), user: at(ram, user), permission: RW };
    // An idle window of small pages, and one call that maps a small page in it and large ones
    // behind it.
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
