//! The kernel fails a call: afterwards nothing has changed, or the error says what has.

use crate::fixture::{BIG, Fixture, RW, at, iova};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, UserRange};
use spapr_iommu::host::Errno;
use spapr_iommu::model::{Faulty, Model, Preset};
use spapr_iommu::registry::Registry;
use spapr_iommu::space::{AddressSpace, AttachError, MapError, MapRequest, Overlap, UnmapError, WindowError};
use spapr_iommu::window::{PlanError, WindowRequest};
use spapr_iommu_tests::by_address::ByAddress;
use std::sync::Arc;

const M: u64 = 1 << 20;

/// A space over one or two containers, on a faulty kernel.
struct Trial {
    fixture: Fixture,
    faulty: Arc<Faulty<Arc<Model>>>,
    ram: UserRange,
}

impl Trial {
    fn new() -> (Self, spapr_iommu::registry::Lease) {
        Self::with_containers(2)
    }

    fn with_containers(count: u32) -> (Self, spapr_iommu::registry::Lease) {
        let model = Arc::new(Model::new("powernv9-64k".parse::<Preset>().unwrap()).with_groups(3));
        let faulty = Arc::new(Faulty::new(model.clone()));
        let registry = Registry::new(faulty.clone());
        let space = AddressSpace::new(&registry);
        (0..count).for_each(|group| space.attach(Group(group)).unwrap());
        let fixture = Fixture { model, registry, space };
        let ram = fixture.allocate(16 * M);
        let lease = fixture.registry.lease(ram).unwrap();
        fixture.space.create_window(&WindowRequest::bytes(64 * M)).unwrap();
        fixture.space.map(iova(BIG, 2 * M), at(ram, 0), RW).unwrap();
        fixture.space.map(iova(BIG + 4 * M, 2 * M), at(ram, 4 * M), RW).unwrap();
        fixture.agrees();
        (Self { fixture, faulty, ram }, lease)
    }

    /// Fails the calls of `change` one after the other, and expects each failure to leave
    /// everything unchanged, until `change` succeeds. Returns the number of its calls.
    fn every_call(&self, result: Result<i32, Errno>, change: impl Fn() -> bool) -> u32 {
        for call in 0.. {
            let before = (self.fixture.space.mappings(), self.fixture.registry.regions(), self.fixture.model.locked());
            self.faulty.arm(call, 1, result);
            let worked = change();
            let failed = self.faulty.disarm() > 0;
            assert_eq!(worked, !failed, "call {call}");
            self.fixture.agrees();
            if worked {
                return call;
            }
            let after = (self.fixture.space.mappings(), self.fixture.registry.regions(), self.fixture.model.locked());
            assert_eq!(after, before, "call {call}");
        }
        unreachable!()
    }
}

#[test]
fn a_map_that_fails_at_any_call_puts_back_what_it_replaced() {
    for result in [Err(Errno::ENOMEM), Err(Errno::EINTR), Ok(1)] {
        let (trial, _lease) = Trial::new();
        let request =
            |start, user| MapRequest { iova: iova(BIG + start, M), user: at(trial.ram, user), permission: RW };
        let requests = [request(M, 8 * M), request(3 * M, 9 * M), request(5 * M, 10 * M)];
        let calls = trial.every_call(result, || trial.fixture.space.map_all(&requests, Overlap::Replace).is_ok());
        assert_eq!(calls, 6, "three runs in two containers");
    }
}

#[test]
fn an_unmap_that_fails_at_any_call_keeps_everything_mapped() {
    let (trial, _lease) = Trial::new();
    let calls = trial.every_call(Err(Errno::EINVAL), || trial.fixture.space.unmap(iova(BIG, 8 * M)).is_ok());
    assert_eq!(calls, 2, "one call reaches over the small hole, in each container");
    assert_eq!(trial.fixture.space.mapped(), (0, 0));
}

#[test]
fn a_registration_that_fails_leaves_none() {
    let (trial, _lease) = Trial::new();
    let more = trial.fixture.allocate(4 * M);
    let other = trial.fixture.allocate(4 * M);
    let ranges = [crate::fixture::part(more, 0, M), crate::fixture::part(other, 2 * M, M)];
    for result in [Err(Errno::ENOMEM), Ok(17)] {
        let leases = std::cell::RefCell::new(Vec::new());
        let register = || trial.fixture.registry.lease_all(&ranges).map(|new| *leases.borrow_mut() = new).is_ok();
        assert_eq!(trial.every_call(result, register), 2);
    }
}

#[test]
fn an_attach_that_fails_at_any_call_is_undone() {
    for call in 0.. {
        // A new one each time: what the kernel refused a group is not requested again.
        let (trial, _lease) = Trial::new();
        let before = (trial.fixture.space.mappings(), trial.fixture.registry.regions(), trial.fixture.model.locked());
        trial.faulty.arm(call, 1, Err(Errno::EPERM));
        let worked = trial.fixture.space.attach(Group(2)).is_ok();
        assert_eq!(trial.faulty.disarm() > 0, !worked, "call {call}");
        trial.fixture.agrees();
        if worked {
            assert!(call > 8, "{call}");
            return;
        }
        let after = (trial.fixture.space.mappings(), trial.fixture.registry.regions(), trial.fixture.model.locked());
        assert_eq!(after, before, "call {call}");
    }
}

#[test]
fn a_window_that_one_container_refuses_is_in_none() {
    let (trial, _lease) = Trial::new();
    trial.fixture.space.unmap(iova(BIG, 64 * M)).unwrap();
    trial.fixture.space.remove_window(Iova(BIG)).unwrap();
    for fails in [0, 1] {
        // Another size each time: what the kernel refused is not requested again.
        let request = WindowRequest::bytes((1 << 30) << (2 - fails));
        trial.faulty.arm(fails, 1, Err(Errno::ENOMEM));
        let error = trial.fixture.space.create_window(&request).unwrap_err();
        assert!(trial.faulty.disarm() > 0 && error.to_string().contains("ENOMEM"), "{error}");
        trial.fixture.agrees();
        let again = trial.fixture.space.create_window(&request).unwrap_err();
        assert!(again.to_string().contains("refused a window"), "{again}");
    }
}

#[test]
fn what_cannot_be_put_back_is_named() {
    let (trial, _lease) = Trial::new();
    let request = MapRequest { iova: iova(BIG + M, M), user: at(trial.ram, 8 * M), permission: RW };
    // The MAP fails, and then the UNMAP and the MAP that should undo it.
    trial.faulty.arm(0, 3, Err(Errno::ENOMEM));
    let error = trial.fixture.space.map_all(&[request], Overlap::Replace).unwrap_err();
    trial.faulty.disarm();
    let MapError::NotRestored(error) = error else { panic!("{error}") };
    assert_eq!(
        (error.lost.as_slice(), error.left.as_slice()),
        ([iova(BIG + M, M)].as_slice(), [iova(BIG + M, M)].as_slice())
    );
    // The other mappings are recorded correctly.
    assert_eq!(trial.fixture.space.gaps(iova(BIG, 2 * M)), [iova(BIG + M, M)]);
    let (trial, _lease) = Trial::new();
    trial.faulty.arm(0, 3, Err(Errno::EINVAL));
    let error = trial.fixture.space.unmap(iova(BIG, 2 * M)).unwrap_err();
    assert!(matches!(error, UnmapError::NotRestored(_)), "{error}");
    trial.faulty.disarm();
    assert!(matches!(trial.fixture.space.attach(Group(0)), Err(AttachError::AttachedAlready { .. })));
}

#[test]
fn what_devices_may_still_reach_is_named_and_never_unregistered() {
    let (trial, lease) = Trial::with_containers(1);
    let request = |start, user| MapRequest { iova: iova(BIG + start, M), user: at(trial.ram, user), permission: RW };
    // The first MAP works, the second fails, and then the UNMAP of the first.
    trial.faulty.arm(1, 2, Err(Errno::ENOMEM));
    let requests = [request(8 * M, 8 * M), request(10 * M, M)];
    let error = trial.fixture.space.map_all(&requests, Overlap::Refuse).unwrap_err();
    trial.faulty.disarm();
    let MapError::NotRestored(error) = error else { panic!("{error}") };
    assert_eq!((error.lost.as_slice(), error.left.as_slice()), ([].as_slice(), [iova(BIG + 8 * M, M)].as_slice()));
    // Closing the container frees the memory, after its tables are gone.
    drop(lease);
    trial.fixture.ends_clean();
}

#[test]
fn a_window_made_for_a_map_that_fails_goes_with_it() {
    let (trial, _lease) = Trial::new();
    let space = &trial.fixture.space;
    space.unmap(iova(BIG, 64 * M)).unwrap();
    space.remove_window(Iova(BIG)).unwrap();
    let windows = || space.status().windows.len();
    let before = windows();
    // CREATE in two containers, and then the MAP.
    trial.faulty.arm(2, 1, Err(Errno::ENOMEM));
    space.map(iova(BIG, M), at(trial.ram, 0), RW).unwrap_err();
    assert_eq!((trial.faulty.disarm(), windows()), (1, before));
    trial.fixture.agrees();
    space.map(iova(BIG, M), at(trial.ram, 0), RW).unwrap();
    assert_eq!(windows(), before + 1);
    // An existing one stays.
    trial.faulty.arm(0, 1, Err(Errno::ENOMEM));
    space.map(iova(BIG + M, M), at(trial.ram, M), RW).unwrap_err();
    assert_eq!((trial.faulty.disarm(), windows()), (1, before + 1));
    trial.fixture.agrees();
}

#[test]
fn windows_that_made_room_for_one_that_failed_are_named() {
    let (trial, _lease) = Trial::new();
    let space = &trial.fixture.space;
    space.unmap(iova(BIG, 64 * M)).unwrap();
    space.remove_window(Iova(BIG)).unwrap();
    space.map(iova(BIG, M), at(trial.ram, 0), RW).unwrap();
    space.unmap(iova(BIG, M)).unwrap();
    // REMOVE in two containers, and then the first CREATE.
    trial.faulty.arm(2, 1, Err(Errno::ENOMEM));
    let error = space.create_window(&WindowRequest::bytes(4 << 30)).unwrap_err();
    assert_eq!(trial.faulty.disarm(), 1);
    let WindowError::Call { gone, .. } = &error else { panic!("{error}") };
    assert_eq!(gone, &[Iova(BIG)]);
    trial.fixture.agrees();
}

#[test]
fn what_devices_may_still_reach_keeps_its_window_and_other_memory_is_counted_out_late() {
    let (trial, lease) = Trial::with_containers(1);
    let Trial { fixture, faulty, ram } = &trial;
    let other = fixture.allocate(M);
    let more = fixture.registry.lease(other).unwrap();
    fixture.space.unmap(iova(BIG, 64 * M)).unwrap();
    fixture.space.map(iova(0, M), at(other, 0), RW).unwrap();
    faulty.arm(1, 2, Err(Errno::ENOMEM));
    let request = |start| MapRequest { iova: iova(BIG + start, M), user: at(*ram, start), permission: RW };
    fixture.space.map_all(&[request(0), request(2 * M)], Overlap::Refuse).unwrap_err();
    assert_eq!(faulty.disarm(), 2);
    assert_eq!(fixture.space.mapped(), (1, M), "only the other memory");
    let refused = fixture.space.remove_window(Iova(BIG)).unwrap_err();
    assert!(matches!(refused, WindowError::Refused(PlanError::InUse { .. })), "{refused}");
    // No lease is left, and the container closes with entries in its tables: UNREGISTER would lose
    // the memory.
    drop((lease, more));
    faulty.arm(0, 1, Err(Errno::EINVAL));
    let Trial { fixture, faulty, .. } = trial;
    let Fixture { model, registry, space } = fixture;
    drop(space);
    assert_eq!(faulty.disarm(), 1);
    assert_eq!(registry.regions(), []);
    assert_eq!(model.violations(), []);
}
