//! Spaces whose tables KVM fills by itself: here by calls that bypass the space, as the kernel's
//! own code would.

use crate::fixture::{BIG, Fixture, PRESETS, RW, at, iova};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, UserRange};
use spapr_iommu::host::calls;
use spapr_iommu::space::MapRequest;
use spapr_iommu::window::{DefaultWindow, WindowRequest};
use spapr_iommu_tests::by_address;
use spapr_iommu_tests::by_address::{ByAddress, observe};

const SIZE: u64 = 1 << 20;

/// Does what KVM would do for a guest's H_PUT_TCE: maps in every container.
fn kvm_maps(fixture: &Fixture, iova: IovaRange, user: UserRange) -> MapRequest {
    for container in fixture.model.containers() {
        by_address::map_dma(fixture.model.as_ref(), container, user.start(), iova, RW).unwrap();
    }
    MapRequest { iova, user: user.start(), permission: RW }
}

#[test]
fn what_kvm_mapped_keeps_its_memory_until_it_is_gone() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(SIZE);
        let lease = fixture.registry.lease(ram).unwrap();
        fixture.space.pin_for_kvm(&[ram]).unwrap();
        let window = iova(0, SIZE);
        let request = kvm_maps(&fixture, window, ram);
        observe(&fixture.space, window, &[request]).unwrap();
        fixture.space.unpin_for_kvm(ram);
        let refused = lease.release().unwrap_err();
        assert_eq!(refused.mapped, [window]);
        // KVM unmapped half of it.
        for container in fixture.model.containers() {
            calls::unmap_dma(fixture.model.as_ref(), container, iova(0, SIZE / 2)).unwrap();
        }
        let half = MapRequest { iova: iova(SIZE / 2, SIZE / 2), user: at(ram, SIZE / 2), permission: RW };
        observe(&fixture.space, window, &[half]).unwrap();
        fixture.agrees();
        fixture.space.unmap(window).unwrap();
        refused.lease.release().unwrap();
        fixture.ends_clean();
    }
}

#[test]
fn a_window_goes_with_all_that_kvm_mapped_in_it() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(SIZE);
        let lease = fixture.registry.lease(ram).unwrap();
        fixture.space.pin_for_kvm(&[ram]).unwrap();
        let big = fixture.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap().range;
        fixture.space.map(iova(big.start().0, SIZE), ram.start(), RW).unwrap();
        // More than the space knows.
        kvm_maps(&fixture, iova(big.start().0 + SIZE, SIZE), ram);
        kvm_maps(&fixture, iova(SIZE, SIZE), ram);
        fixture.space.discard_window(big.start()).unwrap();
        assert_eq!(fixture.space.mapped(), (0, 0));
        fixture.space.discard_window(Iova(0)).unwrap();
        assert!(fixture.space.discard_window(Iova(BIG)).is_err());
        fixture.space.unpin_for_kvm(ram);
        lease.release().unwrap();
        fixture.ends_clean();
    }
}

#[test]
fn a_space_that_ends_with_maps_of_kvms_loses_nothing() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(SIZE);
        let lease = fixture.registry.lease(ram).unwrap();
        fixture.space.pin_for_kvm(&[ram]).unwrap();
        kvm_maps(&fixture, iova(0, SIZE), ram);
        fixture.space.attach(Group(1)).unwrap();
        fixture.space.pin_for_kvm(&[ram]).unwrap();
        kvm_maps(&fixture, iova(SIZE, SIZE), ram);
        // Neither side knows what is mapped, nor does a caller who releases the memory.
        drop(lease);
        fixture.space.detach(Group(0)).unwrap();
        fixture.ends_clean();
    }
}

#[test]
fn all_that_is_held_stays_registered_until_each_is_let_go() {
    let fixture = Fixture::new("powernv9-64k");
    let memory = [0, 1].map(|_| fixture.allocate(SIZE));
    let leases = memory.map(|range| fixture.registry.lease(range).unwrap());
    fixture.space.pin_for_kvm(&memory).unwrap();
    fixture.space.pin_for_kvm(&memory).unwrap();
    drop(leases);
    let held = || fixture.registry.regions().iter().map(|region| (region.range, region.mapped)).collect::<Vec<_>>();
    assert_eq!(held(), memory.map(|range| (range, SIZE)));
    fixture.space.unpin_for_kvm(memory[0]);
    assert_eq!(held(), [(memory[1], SIZE)]);
    fixture.space.unpin_for_kvm(memory[1]);
    assert_eq!(held(), []);
    fixture.ends_clean();
}

#[test]
fn the_default_window_comes_only_for_memory_and_only_where_there_is_one() {
    let fixture = Fixture::new("powernv9-64k");
    fixture.space.pin_for_kvm(&[]).unwrap();
    assert_eq!(fixture.space.status().default, DefaultWindow::Pending);
    fixture.space.drop_default_window().unwrap();
    let memory = fixture.allocate(SIZE);
    let _lease = fixture.registry.lease(memory).unwrap();
    fixture.space.pin_for_kvm(&[memory]).unwrap();
    assert_eq!((fixture.space.status().default, fixture.model.locked()), (DefaultWindow::Gone, SIZE));
    fixture.space.unpin_for_kvm(memory);
    fixture.agrees();
}
