//! Several threads at once: maps, translations, leases, groups.

use crate::fixture::{BIG, Fixture, RW, at, iova, part};
use spapr_iommu::Group;
use spapr_iommu::addr::Iova;
use spapr_iommu::model::Model;
use spapr_iommu::space::AddressSpace;
use spapr_iommu_tests::by_address::ByAddress;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const PAGE: u64 = 0x10000;
/// Fewer under Miri, which is slow.
const ROUNDS: u64 = if cfg!(miri) { 2 } else { 400 };

/// A thread's own pages: of memory, and of bus addresses.
const OWN: u64 = 8;

#[test]
fn threads_that_map_translate_lease_and_attach_meet_no_trap() {
    let fixture = Fixture::with(Model::new("powernv9-64k".parse().unwrap()).with_groups(3));
    let ram = fixture.allocate(8 * OWN * PAGE);
    fixture.space.attach(Group(0)).unwrap();
    let other = AddressSpace::new(&fixture.registry);
    other.attach(Group(2)).unwrap();
    // Reserved, so that the thread that maps first creates room for the others.
    for space in [&fixture.space, &other] {
        space.reserve(iova(BIG, 64 * OWN * PAGE)).unwrap();
    }
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                let (registry, space) = (&fixture.registry, if worker % 2 == 0 { &fixture.space } else { &other });
                scope.spawn(move || {
                    let mine = part(ram, worker * OWN * PAGE, OWN * PAGE);
                    let start = BIG + worker * OWN * PAGE;
                    for round in 0..ROUNDS {
                        let lease = registry.lease(mine).unwrap();
                        let (page, pages) = (round % OWN, 1 + round % (OWN - round % OWN));
                        let (there, len) = (start + page * PAGE, pages * PAGE);
                        space.map(iova(there, len), at(mine, 0), RW).unwrap();
                        assert_eq!(space.translate(Iova(there)).unwrap().user, at(mine, 0));
                        let refused = lease.release().unwrap_err();
                        assert_eq!(refused.mapped, [iova(there, len)]);
                        if round % 2 == 0 {
                            drop(refused);
                            assert_eq!(space.unmap(iova(start, OWN * PAGE)).unwrap(), len);
                        } else {
                            assert_eq!(space.unmap(iova(there, len)).unwrap(), len);
                            refused.lease.release().unwrap();
                        }
                    }
                })
            })
            .collect();
        // Groups come and go, and readers read meanwhile.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fixture.space.attach(Group(1)).unwrap();
                fixture.space.detach(Group(1)).unwrap();
            }
        });
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for mapping in fixture.space.mappings() {
                    assert!(ram.contains(mapping.user));
                }
                drop((fixture.registry.regions(), fixture.space.status(), fixture.space.gaps(iova(BIG, PAGE))));
            }
        });
        let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        // Even after a failure, or the others would never stop.
        stop.store(true, Ordering::Relaxed);
        ends.into_iter().for_each(|end| end.unwrap());
    });
    assert_eq!((fixture.space.mapped(), other.mapped()), ((0, 0), (0, 0)));
    assert_eq!(fixture.model.violations(), []);
    drop(other);
    fixture.ends_clean();
}
