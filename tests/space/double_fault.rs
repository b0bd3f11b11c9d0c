//! The kernel fails twice in one operation: the change, and then the rollback. The tables lack
//! exactly what the error calls lost; it also names what devices may still reach.

use crate::fixture::{BIG, Fixture, RW, at, iova};
use spapr_iommu::Group;
use spapr_iommu::addr::{IovaRange, UserRange};
use spapr_iommu::host::Errno;
use spapr_iommu::model::{Faulty, Model};
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::{AddressSpace, AttachError, MapError, MapRequest, NotRestored, Overlap, UnmapError};
use spapr_iommu::window::WindowRequest;
use spapr_iommu_tests::by_address::ByAddress;
use std::collections::BTreeMap;
use std::sync::Arc;

const M: u64 = 1 << 20;
const PAGE: u64 = 0x10000;

/// Bus pages and the user pages they lead to.
type Pages = BTreeMap<u64, u64>;

struct Trial {
    fixture: Fixture,
    faulty: Arc<Faulty<Arc<Model>>>,
    ram: UserRange,
    lease: Lease,
}

/// Outcomes of an operation.
enum End {
    Done,
    Refused,
    NotRestored(NotRestored),
}

impl Trial {
    /// Three mapped runs, in one container or in two, the last of which two groups may share.
    fn new(containers: u32, shared: bool) -> Self {
        let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()).with_groups(4));
        let faulty = Arc::new(Faulty::new(model.clone()));
        let registry = Registry::new(faulty.clone());
        let space = AddressSpace::new(&registry);
        (0..containers).for_each(|group| space.attach(Group(group)).unwrap());
        if shared {
            space.attach_beside(Group(3), Group(containers - 1)).unwrap();
        }
        let fixture = Fixture { model, registry, space };
        let ram = fixture.allocate(16 * M);
        let lease = fixture.registry.lease(ram).unwrap();
        fixture.space.create_window(&WindowRequest::bytes(64 * M)).unwrap();
        for (start, user) in [(0, 0), (4 * M, 3 * M), (48 * M, 8 * M)] {
            fixture.space.map(iova(BIG + start, 2 * M), at(ram, user), RW).unwrap();
        }
        fixture.agrees();
        Self { fixture, faulty, ram, lease }
    }

    fn mappings(&self) -> Pages {
        pages(self.fixture.space.mappings().iter().map(|mapping| (mapping.iova, mapping.user.0)))
    }

    fn tables(&self) -> Vec<Pages> {
        let containers = self.fixture.model.containers();
        let tables = containers.into_iter().map(|container| self.fixture.model.tables(container));
        tables
            .map(|tables| pages(tables.iter().flat_map(|table| &table.entries).map(|entry| (entry.iova, entry.user.0))))
            .collect()
    }
}

fn pages(runs: impl Iterator<Item = (IovaRange, u64)>) -> Pages {
    runs.flat_map(|(iova, user)| (0..iova.len()).step_by(PAGE as usize).map(move |o| (iova.start().0 + o, user + o)))
        .collect()
}

/// Returns the bus pages of ranges, which must not overlap.
fn named(ranges: &[IovaRange]) -> Vec<u64> {
    let mut all: Vec<_> = ranges.iter().flat_map(|r| (r.start().0..r.end().0).step_by(PAGE as usize)).collect();
    all.sort_unstable();
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "{ranges:?} name something twice");
    all
}

/// Fails each call of an operation, and each call after it, with each of these. Returns how often
/// the rollback failed too.
fn every_pair(trial: impl Fn() -> Trial, operation: impl Fn(&Trial) -> End) -> u32 {
    let results = [Err(Errno::ENOMEM), Err(Errno::EINTR), Ok(1)];
    let mut not_restored = 0;
    for first in 0.. {
        for second in first + 1.. {
            let result = results[(first + second) as usize % results.len()];
            let trial = trial();
            let before = trial.mappings();
            trial.faulty.arm_each([(first, result), (second, result)]);
            let end = operation(&trial);
            let failed = trial.faulty.disarm();
            let context = format!("calls {first} and {second} give {result:?}");
            assert_eq!(trial.fixture.model.violations(), [], "{context}");
            let (mapped, tables) = (trial.mappings(), trial.tables());
            let mut left = Vec::new();
            match &end {
                End::Done => {}
                End::Refused => assert_eq!(mapped, before, "{context}"),
                End::NotRestored(error) => {
                    not_restored += 1;
                    let lost = named(&error.lost);
                    left = named(&error.left);
                    let gone: Vec<_> = before.keys().filter(|page| !mapped.contains_key(page)).copied().collect();
                    assert_eq!(gone, lost, "{context}: {error}");
                    assert!(mapped.iter().all(|(page, user)| before.get(page) == Some(user)), "{context}");
                    assert!(!lost.is_empty() || !left.is_empty(), "{context}: {error}");
                }
            }
            for table in &tables {
                let missing: Vec<_> = mapped.iter().filter(|(page, user)| table.get(page) != Some(user)).collect();
                assert!(missing.is_empty(), "{context}: {missing:x?} is not in a table");
                let stray: Vec<_> = table.keys().filter(|page| !mapped.contains_key(page)).copied().collect();
                assert!(stray.iter().all(|page| left.contains(page)), "{context}: {stray:x?} is in a table");
            }
            // The next change unmaps what was left, and everything can be released.
            trial.fixture.space.unmap(iova(BIG, 64 * M)).unwrap();
            trial.fixture.agrees();
            trial.lease.release().unwrap();
            trial.fixture.ends_clean();
            if failed < 2 {
                // There was no second call.
                if failed == 0 {
                    return not_restored;
                }
                break;
            }
        }
    }
    unreachable!()
}

fn map(trial: &Trial, overlap: Overlap) -> End {
    let request = |start, user| MapRequest { iova: iova(BIG + start, M), user: at(trial.ram, user), permission: RW };
    // Over the end of the first run, in the hole, over the start of the second run, and where
    // nothing is mapped.
    let replacing = [request(M + M / 2, 8 * M), request(3 * M, 10 * M), request(4 * M, 11 * M), request(20 * M, M)];
    let plain = [request(3 * M, 10 * M), request(20 * M, M), request(24 * M, 2 * M)];
    let requests = if overlap == Overlap::Replace { &replacing[..] } else { &plain[..] };
    match trial.fixture.space.map_all(requests, overlap) {
        Ok(()) => End::Done,
        Err(MapError::NotRestored(error)) => End::NotRestored(error),
        Err(_) => End::Refused,
    }
}

fn unmap(trial: &Trial) -> End {
    match trial.fixture.space.unmap(iova(BIG + M, 60 * M)) {
        Ok(_) => End::Done,
        Err(UnmapError::NotRestored(error)) => End::NotRestored(error),
        Err(_) => End::Refused,
    }
}

fn detach(trial: &Trial) -> End {
    match trial.fixture.space.detach(Group(3)) {
        Ok(()) => End::Done,
        Err(AttachError::NotRestored(error)) => End::NotRestored(error),
        Err(_) => End::Refused,
    }
}

#[test]
fn a_map_whose_way_back_fails_says_exactly_what_is_lost() {
    for containers in [1, 2] {
        let replaced = every_pair(|| Trial::new(containers, false), |trial| map(trial, Overlap::Replace));
        assert!(replaced >= 10, "{replaced}");
        let mapped = every_pair(|| Trial::new(containers, false), |trial| map(trial, Overlap::Refuse));
        assert!(mapped >= 3, "{mapped}");
    }
}

#[test]
fn an_unmap_whose_way_back_fails_says_exactly_what_is_lost() {
    for containers in [1, 2] {
        let unmapped = every_pair(|| Trial::new(containers, false), unmap);
        assert!(unmapped >= 2, "{unmapped}");
    }
}

#[test]
fn a_detach_that_cannot_map_again_says_exactly_what_is_lost() {
    for containers in [1, 2] {
        let detached = every_pair(|| Trial::new(containers, true), detach);
        assert!(detached >= 3, "{detached}");
    }
}

/// From some call on, the kernel fails everything that could repair the damage.
#[test]
fn a_kernel_that_goes_on_failing_loses_no_memory() {
    let operations: [fn(&Trial) -> End; 4] =
        [|trial| map(trial, Overlap::Replace), |trial| map(trial, Overlap::Refuse), unmap, detach];
    for (operation, shared) in operations.into_iter().zip([false, false, false, true]) {
        for containers in [1, 2] {
            for (from, count) in (0..20).flat_map(|from| (2..24).map(move |count| (from, count))) {
                let trial = Trial::new(containers, shared);
                trial.faulty.arm(from, count, Err(Errno::EIO));
                let end = operation(&trial);
                trial.faulty.disarm();
                let (mapped, tables) = (trial.mappings(), trial.tables());
                let left = if let End::NotRestored(error) = &end { named(&error.left) } else { Vec::new() };
                for table in &tables {
                    let stray: Vec<_> = table.keys().filter(|page| !mapped.contains_key(page)).copied().collect();
                    assert!(stray.iter().all(|page| left.contains(page)), "{from} {count}: {stray:x?}");
                }
                // Memory that a table still leads to is not unregistered, whatever releases it.
                let Trial { fixture, lease, .. } = trial;
                drop(lease);
                assert_eq!(fixture.model.violations(), [], "{from} {count}");
                fixture.ends_clean();
            }
        }
    }
}
