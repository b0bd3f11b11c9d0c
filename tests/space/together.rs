//! Windows that one call, or containers that joined late, need at the same time.

use crate::fixture::{BIG, Bench, RW, at, iova};
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::model::Model;
use spapr_iommu::space::{MapError, MapRequest, Overlap, WindowError};
use spapr_iommu::window::{DefaultWindow, Reason, Refusal, WindowRequest};
use spapr_iommu_tests::by_address::ByAddress;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// A space in whose second container the default window, which the first one has, waits still.
fn with_a_late_container(model: Model) -> Bench {
    let bench = Bench::with(model);
    bench.space.attach(0).unwrap();
    bench.space.create_window(&WindowRequest::bytes(G)).unwrap();
    bench.space.remove_window(Iova(BIG)).unwrap();
    bench.space.attach(1).unwrap();
    assert_eq!(bench.space.status().default, DefaultWindow::Live);
    bench
}

#[test]
fn a_small_4k_window_elsewhere_is_not_the_default_window_again() {
    for preset in ["pseries-1window", "pseries-1window-4k", "pseries"] {
        let bench = Bench::new(preset);
        bench.space.drop_default_window().unwrap();
        let request = WindowRequest::cover(iova(BIG, M)).page(PageShift::P4K);
        assert!(bench.space.plan(&request).unwrap().reasons.contains(&Reason::BeyondDefault));
        let window = bench.space.create_window(&request).unwrap();
        assert_eq!(window.range, iova(BIG, 2 * G), "{preset}");
        bench.agrees();
        bench.ends_clean();
    }
}

#[test]
fn a_plan_counts_the_default_window_where_it_waits_still() {
    for preset in ["powernv9-64k", "pseries-4k"] {
        let bench = with_a_late_container(Model::new(preset.parse().unwrap()));
        let before = bench.model.locked();
        let plan = bench.space.plan(&WindowRequest::bytes(G)).unwrap();
        assert!(plan.reasons.contains(&Reason::DefaultComesToo), "{preset}");
        bench.space.create_window(&WindowRequest::bytes(G)).unwrap();
        assert_eq!(bench.model.locked() - before, plan.locked_bytes, "{preset}");
        let again = bench.space.remove_window(Iova(BIG)).and_then(|()| bench.space.plan(&WindowRequest::bytes(G)));
        assert!(!again.unwrap().reasons.contains(&Reason::DefaultComesToo), "it has come");
        bench.ends_clean();
    }
}

#[test]
fn a_default_window_that_waits_is_afforded_before_it_is_mapped_in() {
    let limit = |bytes| Model::new("powernv9-64k".parse().unwrap()).with_memlock(Some(bytes));
    // A default window takes 8 MiB, the memory 1 MiB.
    let bench = with_a_late_container(limit(17 * M));
    let ram = bench.allocate(M);
    let _lease = bench.registry.lease(ram).unwrap();
    bench.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    bench.agrees();
    let bench = with_a_late_container(limit(16 * M));
    let ram = bench.allocate(M);
    let _lease = bench.registry.lease(ram).unwrap();
    let error = bench.space.map(iova(0, M), at(ram, 0), RW).unwrap_err();
    assert!(matches!(error, MapError::Window(WindowError::Refused(Refusal::Memlock(_)))), "{error}");
    bench.agrees();
}

#[test]
fn a_default_window_that_waits_in_one_container_only_is_removed_from_all() {
    let bench = with_a_late_container(Model::new("powernv9-64k".parse().unwrap()));
    bench.space.drop_default_window().unwrap();
    let window = bench.space.create_window(&WindowRequest::bytes(G)).unwrap();
    assert_eq!(window.range.start(), Iova(BIG));
    bench.agrees();
    bench.ends_clean();
}

#[test]
fn one_call_never_asks_for_two_windows_where_there_is_one() {
    for dropped in [false, true] {
        let bench = Bench::new("pseries-1window");
        if dropped {
            bench.space.drop_default_window().unwrap();
        }
        let ram = bench.allocate(M);
        let _lease = bench.registry.lease(ram).unwrap();
        let request = |start| MapRequest { iova: iova(start, M), user: at(ram, 0), permission: RW };
        let error = bench.space.map_all(&[request(BIG), request(0)], Overlap::Refuse).unwrap_err();
        assert!(matches!(error, MapError::NoWindow { why: Refusal::OnlyWindowInUse, .. }), "{error}");
        bench.agrees();
        bench.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
        bench.agrees();
    }
}

#[test]
fn windows_of_one_call_are_afforded_together() {
    // The default window takes 8 MiB, one of 64 Ki TCEs in 64 KiB pages 1 MiB, the memory 1 MiB.
    let bench = Bench::with(Model::new("powernv9-64k".parse().unwrap()).with_memlock(Some(9 * M)));
    bench.space.attach(0).unwrap();
    let ram = bench.allocate(M);
    let _lease = bench.registry.lease(ram).unwrap();
    let request = |start| MapRequest { iova: iova(start, M), user: at(ram, 0), permission: RW };
    let error = bench.space.map_all(&[request(BIG), request(0)], Overlap::Refuse).unwrap_err();
    assert!(matches!(error, MapError::NoWindow { why: Refusal::Memlock(_), .. }), "{error}");
    bench.agrees();
    assert_eq!(bench.model.leaks(), []);
}

#[test]
fn a_window_that_a_call_maps_in_is_not_made_anew_by_it() {
    let bench = Bench::new("powernv9-64k");
    let ram = bench.allocate(4 * M);
    let _lease = bench.registry.lease(ram).unwrap();
    let request = |start, user, len| MapRequest { iova: iova(start, len), user: at(ram, user), permission: RW };
    // An idle window of small pages, and one call that maps a small page in it and large ones
    // behind it.
    bench.space.map_all(&[request(BIG, 0x1000, 0x1000)], Overlap::Refuse).unwrap();
    bench.space.unmap(iova(BIG, M)).unwrap();
    let end = bench.space.status().windows.iter().map(|(window, _)| window.range.end().0).max().unwrap();
    let requests = [request(BIG, 0x1000, 0x1000), request(end, 0, M)];
    let error = bench.space.map_all(&requests, Overlap::Refuse).unwrap_err();
    assert!(matches!(error, MapError::NoWindow { why: Refusal::TooSmall { .. }, .. }), "{error}");
    bench.agrees();
}

#[test]
fn no_requests_are_no_call() {
    let bench = with_a_late_container(Model::new("pseries".parse().unwrap()));
    bench.space.map_all(&[], Overlap::Replace).unwrap();
    bench.agrees();
    bench.ends_clean();
}
