//! Spaces whose tables KVM fills by itself: here by calls past the space, as the kernel's own code
//! would.

use crate::fixture::{BIG, Bench, PRESETS, RW, at, iova};
use spapr_iommu::addr::{Iova, IovaRange, UserRange};
use spapr_iommu::host::calls;
use spapr_iommu::space::MapRequest;
use spapr_iommu::window::{DefaultWindow, WindowRequest};
use spapr_iommu_tests::by_address::{ByAddress, observe};

const SIZE: u64 = 1 << 20;

/// What KVM would do for a guest's H_PUT_TCE: maps in every container.
fn kvm_maps(bench: &Bench, iova: IovaRange, user: UserRange) -> MapRequest {
    for container in bench.model.containers() {
        calls::map_dma(bench.model.as_ref(), container, user.start(), iova, RW).unwrap();
    }
    MapRequest { iova, user: user.start(), permission: RW }
}

#[test]
fn what_kvm_mapped_keeps_its_memory_until_it_is_gone() {
    for preset in PRESETS {
        let bench = Bench::new(preset);
        let ram = bench.allocate(SIZE);
        let lease = bench.registry.lease(ram).unwrap();
        bench.space.hold(&[ram]).unwrap();
        let window = iova(0, SIZE);
        let request = kvm_maps(&bench, window, ram);
        observe(&bench.space, window, &[request]).unwrap();
        bench.space.let_go(ram);
        let refused = lease.release().unwrap_err();
        assert_eq!(refused.mapped, [window]);
        // KVM unmapped half of it.
        for container in bench.model.containers() {
            calls::unmap_dma(bench.model.as_ref(), container, iova(0, SIZE / 2)).unwrap();
        }
        let half = MapRequest { iova: iova(SIZE / 2, SIZE / 2), user: at(ram, SIZE / 2), permission: RW };
        observe(&bench.space, window, &[half]).unwrap();
        bench.agrees();
        bench.space.unmap(window).unwrap();
        refused.lease.release().unwrap();
        bench.ends_clean();
    }
}

#[test]
fn a_window_goes_with_all_that_kvm_mapped_in_it() {
    for preset in PRESETS {
        let bench = Bench::new(preset);
        let ram = bench.allocate(SIZE);
        let lease = bench.registry.lease(ram).unwrap();
        bench.space.hold(&[ram]).unwrap();
        let big = bench.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap().range;
        bench.space.map(iova(big.start().0, SIZE), ram.start(), RW).unwrap();
        // More than the space knows of.
        kvm_maps(&bench, iova(big.start().0 + SIZE, SIZE), ram);
        kvm_maps(&bench, iova(SIZE, SIZE), ram);
        bench.space.discard_window(big.start()).unwrap();
        assert_eq!(bench.space.mapped(), (0, 0));
        bench.space.discard_window(Iova(0)).unwrap();
        assert!(bench.space.discard_window(Iova(BIG)).is_err());
        bench.space.let_go(ram);
        lease.release().unwrap();
        bench.ends_clean();
    }
}

#[test]
fn a_space_that_ends_with_maps_of_kvms_loses_nothing() {
    for preset in PRESETS {
        let bench = Bench::new(preset);
        let ram = bench.allocate(SIZE);
        let lease = bench.registry.lease(ram).unwrap();
        bench.space.hold(&[ram]).unwrap();
        kvm_maps(&bench, iova(0, SIZE), ram);
        bench.space.attach(1).unwrap();
        bench.space.hold(&[ram]).unwrap();
        kvm_maps(&bench, iova(SIZE, SIZE), ram);
        // Neither end knows what is mapped, and whoever gives the memory back does not either.
        drop(lease);
        bench.space.detach(0).unwrap();
        bench.ends_clean();
    }
}

#[test]
fn all_that_is_held_stays_registered_until_each_is_let_go() {
    let bench = Bench::new("powernv9-64k");
    let memory = [0, 1].map(|_| bench.allocate(SIZE));
    let leases = memory.map(|range| bench.registry.lease(range).unwrap());
    bench.space.hold(&memory).unwrap();
    bench.space.hold(&memory).unwrap();
    drop(leases);
    let held = || bench.registry.regions().iter().map(|region| (region.range, region.mapped)).collect::<Vec<_>>();
    assert_eq!(held(), memory.map(|range| (range, SIZE)));
    bench.space.let_go(memory[0]);
    assert_eq!(held(), [(memory[1], SIZE)]);
    bench.space.let_go(memory[1]);
    assert_eq!(held(), []);
    bench.ends_clean();
}

#[test]
fn the_default_window_comes_only_for_memory_and_only_where_there_is_one() {
    let bench = Bench::new("powernv9-64k");
    bench.space.hold(&[]).unwrap();
    assert_eq!(bench.space.status().default, DefaultWindow::Pending);
    bench.space.drop_default_window().unwrap();
    let memory = bench.allocate(SIZE);
    let _lease = bench.registry.lease(memory).unwrap();
    bench.space.hold(&[memory]).unwrap();
    assert_eq!((bench.space.status().default, bench.model.locked()), (DefaultWindow::Gone, SIZE));
    bench.space.let_go(memory);
    bench.agrees();
}
