//! Locked memory of the process: counted before the kernel counts it, checked and charged in one
//! step, promises included.

use crate::fixture::{BIG, Fixture, RW, at, iova, part};
use crate::kernel_rules::FakeFacts;
use spapr_iommu::ErrorKind;
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::host::MemlockError;
use spapr_iommu::model::Model;
use spapr_iommu::registry::{RegisterError, Registry};
use spapr_iommu::space::{AddressSpace, AttachError, MapError, WindowError};
use spapr_iommu::window::{PlanError, WindowRequest};
use spapr_iommu_tests::by_address::ByAddress;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;
/// Charge of powernv's default window.
const DEFAULT: u64 = 8 * M;

fn limited(limit: u64) -> Model {
    Model::new("powernv9-64k".parse().unwrap()).with_memlock(Some(limit))
}

fn over_limit(error: &WindowError) -> bool {
    matches!(error, WindowError::Refused(PlanError::Memlock(_)))
}

#[test]
fn a_group_that_joins_leaves_the_others_the_room_for_their_default_window() {
    for mapped_first in [false, true] {
        let fixture = Fixture::with(limited(M + 2 * DEFAULT - 1));
        fixture.space.attach(Group(0)).unwrap();
        let ram = fixture.allocate(M);
        let _lease = fixture.registry.lease(ram).unwrap();
        if mapped_first {
            fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
        }
        let before = fixture.model.locked();
        let error = fixture.space.attach(Group(1)).unwrap_err();
        let AttachError::Windows { why, .. } = &error else { panic!("{error}") };
        assert!(over_limit(why), "{error}");
        assert_eq!((fixture.model.locked(), fixture.model.containers().len()), (before, 1));
        if !mapped_first {
            fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
        }
        fixture.model.set_memlock(Some(M + 2 * DEFAULT), false);
        fixture.space.attach(Group(1)).unwrap();
        fixture.agrees();
    }
}

#[test]
fn what_a_requested_default_window_will_lock_is_kept_for_it() {
    let fixture = Fixture::with(limited(DEFAULT + M));
    fixture.space.attach(Group(0)).unwrap();
    fixture.space.reserve(iova(0, M)).unwrap();
    let ram = fixture.allocate(2 * M);
    let error = fixture.registry.lease(ram).unwrap_err();
    let RegisterError::Memlock(MemlockError::OverPromise { missing, promised, .. }) = &error else { panic!("{error}") };
    assert_eq!((*missing, *promised), (M, DEFAULT));
    assert!(error.to_string().contains("8 MiB promised to default windows"), "{error}");
    let other = AddressSpace::new(&fixture.registry);
    other.attach(Group(1)).unwrap();
    let error = other.reserve(iova(0, M)).unwrap_err();
    assert!(over_limit(&error), "{error}");
    other.drop_default_window().unwrap();
    // There is room for a table of less than 1 MiB, and this one takes 2 MiB.
    assert!(over_limit(&other.create_window(&WindowRequest::bytes(8 * G)).unwrap_err()));
    // The promise ends with the request, and with the space.
    fixture.space.unreserve(iova(0, M)).unwrap();
    other.create_window(&WindowRequest::bytes(8 * G)).unwrap();
    drop(other);
    fixture.space.reserve(iova(0, M)).unwrap();
    fixture.space.detach(Group(0)).unwrap();
    drop(fixture.registry.lease(ram).unwrap());
}

#[test]
fn a_promise_is_kept() {
    let fixture = Fixture::with(limited(DEFAULT + M));
    fixture.space.attach(Group(0)).unwrap();
    fixture.space.reserve(iova(0, M)).unwrap();
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.lease(ram).unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    assert_eq!(fixture.model.locked(), DEFAULT + M);
    fixture.agrees();
}

#[test]
fn a_window_that_is_made_anew_is_afforded_with_what_the_old_one_gives_back() {
    // 2 MiB for 8 GiB of 64K pages; the next size takes two levels, and slightly more than twice
    // that.
    let fixture = Fixture::with(limited(0));
    fixture.space.attach(Group(0)).unwrap();
    fixture.space.drop_default_window().unwrap();
    fixture.model.set_memlock(Some(5 * M), false);
    fixture.space.reserve(iova(BIG, 8 * G)).unwrap();
    let first = fixture.model.locked();
    assert_eq!(fixture.space.reserve(iova(BIG, 16 * G)).unwrap().range, iova(BIG, 16 * G));
    assert!(fixture.model.locked() + first > 5 * M, "both at a time would be too much");
    fixture.agrees();
}

#[test]
fn a_window_in_the_place_of_another_is_afforded_before_that_goes() {
    let fixture = Fixture::with(limited(DEFAULT + 3 * M));
    fixture.space.attach(Group(0)).unwrap();
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.lease(ram).unwrap();
    fixture.space.create_window(&WindowRequest::bytes(8 * G)).unwrap();
    fixture.space.drop_default_window().unwrap();
    fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
    let back = WindowRequest::cover(iova(0, 2 * G)).page(PageShift::P4K);
    fixture.model.set_memlock(Some(DEFAULT), false);
    let error = fixture.space.replace_window(Iova(BIG), &back).unwrap_err();
    assert!(over_limit(&error) && fixture.space.can_replace_window(Iova(BIG), &back).is_err(), "{error}");
    assert_eq!(fixture.space.mapped(), (1, M));
    fixture.agrees();
    // With what the first returns, it just fits.
    fixture.model.set_memlock(Some(DEFAULT + M), false);
    assert_eq!(fixture.space.replace_window(Iova(BIG), &back).unwrap().range, iova(0, 2 * G));
    assert_eq!((fixture.space.mapped(), fixture.model.locked()), ((0, 0), DEFAULT + M));
    fixture.agrees();
}

#[test]
fn of_two_windows_at_the_same_moment_the_one_that_fits_is_made_and_the_other_refused() {
    for round in 0..50 {
        let table = 2 * M;
        let model = Arc::new(limited(table + table / 2));
        // Between the check and the charge there is time for others.
        let host = FakeFacts { takes: Duration::from_millis(1), ..FakeFacts::new(model.clone()) };
        let registry = Registry::new(Arc::new(host));
        let spaces = [0, 1].map(|group| {
            let space = AddressSpace::new(&registry);
            space.attach(Group(group)).unwrap();
            space.drop_default_window().unwrap();
            space
        });
        let start = Barrier::new(2);
        let results: Vec<_> = std::thread::scope(|scope| {
            let make = |space: &AddressSpace| {
                start.wait();
                space.create_window(&WindowRequest::bytes(8 * G))
            };
            let threads: Vec<_> = spaces.iter().map(|space| scope.spawn(move || make(space))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let refused: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
        assert!(matches!(refused[..], [error] if over_limit(error)), "{round}: {results:?}");
        assert_eq!((model.leaks(), model.violations()), (vec![], vec![]));
        model.set_memlock(None, false);
        let late = results.iter().position(Result::is_err).unwrap();
        spaces[late].create_window(&WindowRequest::bytes(8 * G)).unwrap();
    }
}

#[test]
fn a_window_refused_for_the_limit_is_made_once_the_limit_is_lifted() {
    let model = Arc::new(limited(M));
    // What others in the process lock between the check and the charge.
    let host = Arc::new(FakeFacts::new(model.clone()));
    let space = AddressSpace::new(&Registry::new(host.clone()));
    space.attach(Group(0)).unwrap();
    space.drop_default_window().unwrap();
    let request = WindowRequest::bytes(16 * G);
    host.blind.store(2, Ordering::Relaxed);
    let error = space.create_window(&request).unwrap_err();
    assert!(matches!(error, WindowError::Call { .. }), "{error}");
    assert!(over_limit(&space.create_window(&request).unwrap_err()));
    model.set_memlock(None, false);
    assert_eq!(space.create_window(&request).unwrap().range, iova(BIG, 16 * G));
    assert_eq!((model.leaks(), model.violations()), (vec![], vec![]));
}

#[test]
fn a_window_the_machine_had_no_memory_for_is_made_once_there_is_more() {
    let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
    let facts = FakeFacts::new(model);
    let host = Arc::new(FakeFacts { available: AtomicU64::new(100 * M), leaks: AtomicU64::new(4 * M), ..facts });
    let space = AddressSpace::new(&Registry::new(host.clone()));
    space.attach(Group(0)).unwrap();
    let request = WindowRequest::bytes(16 * G);
    assert!(matches!(space.create_window(&request), Err(WindowError::Call { .. })));
    let again = space.create_window(&request).unwrap_err();
    assert!(matches!(again, WindowError::Refused(PlanError::RefusedBefore { .. })), "{again}");
    host.available.store(200 * M, Ordering::Relaxed);
    space.create_window(&request).unwrap();
}

#[test]
fn however_much_is_mapped_a_space_and_a_registry_show_themselves_on_a_screen() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(64 * M);
    let _leases: Vec<_> = (0..64).map(|n| fixture.registry.lease(part(ram, n * M, M)).unwrap()).collect();
    for n in 0..64 {
        fixture.space.map(iova(BIG + 2 * n * M, M), at(ram, n * M), RW).unwrap();
    }
    let shown = [format!("{:#?}", fixture.space), format!("{:#?}", fixture.registry)];
    assert!(shown.iter().all(|text| text.lines().count() < 24 && text.len() < 2000), "{}", shown.concat());
    assert!(shown[0].contains("64 mappings") && shown[1].contains("64 regions"), "{}", shown.concat());
}

fn limited_bench(preset: &str, limit: u64) -> Fixture {
    let fixture = Fixture::with(Model::new(preset.parse().unwrap()).with_memlock(Some(limit)));
    fixture.space.attach(Group(0)).unwrap();
    fixture
}

#[test]
fn registering_too_much_says_how_much_is_missing_and_what_to_do() {
    let fixture = limited_bench("powernv9-64k", 16 * M);
    let ram = fixture.allocate(32 * M);
    let _some = fixture.registry.lease(part(ram, 0, 4 * M)).unwrap();
    let error = fixture.registry.lease(ram).unwrap_err();
    let RegisterError::Memlock(MemlockError::OverLimit { needed, missing, .. }) = &error else { panic!("{error}") };
    assert_eq!((*needed, *missing), (28 * M, 16 * M));
    let text = error.to_string();
    assert!(
        text.contains("16 MiB more than allowed") && text.contains("ulimit -l") && text.contains("32768 KiB"),
        "{text}"
    );
    assert_eq!(fixture.model.locked(), 4 * M);
    fixture.agrees();
}

#[test]
fn a_window_whose_table_is_too_large_is_refused_without_losing_a_byte() {
    let fixture = limited_bench("powernv9-64k", M);
    let error = fixture.space.create_window(&WindowRequest::bytes(1 << 40)).unwrap_err();
    assert!(matches!(error, WindowError::Refused(PlanError::Memlock(_))), "{error}");
    assert_eq!(fixture.model.locked(), 0);
    assert_eq!(fixture.model.violations(), []);
    fixture.ends_clean();
}

#[test]
fn the_default_windows_table_counts_as_well() {
    let fixture = limited_bench("powernv9-64k", 8 * M);
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.lease(ram).unwrap();
    let error = fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap_err();
    assert!(matches!(error, MapError::NoWindow { why: PlanError::Memlock(_), .. }), "{error}");
    fixture.space.drop_default_window().unwrap();
    fixture.space.create_window(&WindowRequest::bytes(64 * M)).unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    fixture.agrees();
    assert!(fixture.space.map(iova(BIG, M), at(ram, 0), RW).is_ok());
}

#[test]
fn too_little_locked_memory_is_one_kind_whatever_failed() {
    let fixture = limited_bench("powernv9-64k", 8 * M);
    let ram = fixture.allocate(16 * M);
    let register = fixture.registry.lease(ram).unwrap_err();
    let window = fixture.space.create_window(&WindowRequest::bytes(1 << 40)).unwrap_err();
    let _lease = fixture.registry.lease(part(ram, 0, M)).unwrap();
    let map = fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap_err();
    let found = [(register.kind(), register.code()), (window.kind(), window.code()), (map.kind(), map.code())];
    assert_eq!(found, [(ErrorKind::Memlock, "over-limit"); 3]);
    // A group that joins needs a table for the first one's mappings.
    fixture.model.set_memlock(Some(9 * M), false);
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    let attach = fixture.space.attach(Group(1)).unwrap_err();
    assert_eq!((attach.kind(), attach.code()), (ErrorKind::Memlock, "over-limit"), "{attach}");
}
