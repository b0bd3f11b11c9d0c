//! Groups that come and go.

use crate::fixture::{BIG, Fixture, PRESETS, RW, at, iova, part};
use spapr_iommu::Group;
use spapr_iommu::host::{Host, Memory, Obstacle, Platform};
use spapr_iommu::model::Model;
use spapr_iommu::space::{AddressSpace, AttachError};
use spapr_iommu::window::WindowRequest;
use spapr_iommu_tests::by_address::ByAddress;

const M: u64 = 1 << 20;

#[test]
fn a_group_that_joins_sees_what_is_mapped() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(16 * M);
        let lease = fixture.registry.lease(ram).unwrap();
        fixture.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
        fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
        fixture.space.map(iova(BIG, M), at(ram, 4 * M), RW).unwrap();
        fixture.space.attach(Group(1)).unwrap();
        assert_eq!(fixture.model.containers().len(), 2);
        fixture.agrees();
        fixture.space.map(iova(BIG + M, M), at(ram, 8 * M), RW).unwrap();
        fixture.space.unmap(iova(0, M)).unwrap();
        fixture.agrees();
        // Registered twice, charged once.
        assert!(fixture.registry.regions().iter().all(|region| region.containers == 2));
        for leaves in [0, 1] {
            fixture.space.detach(Group(leaves)).unwrap();
            fixture.agrees();
        }
        assert_eq!(fixture.space.mapped(), (0, 0));
        drop(lease);
        fixture.ends_clean();
    }
}

#[test]
fn a_group_that_leaves_a_shared_container_takes_nothing_from_the_others() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(16 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    fixture.space.map(iova(BIG, M), at(ram, 4 * M), RW).unwrap();
    fixture.space.attach_beside(Group(1), Group(0)).unwrap();
    assert_eq!(fixture.model.containers().len(), 1);
    fixture.agrees();
    fixture.space.detach(Group(0)).unwrap();
    fixture.agrees();
    fixture.space.unmap(iova(0, M)).unwrap();
    drop(fixture.space.mappings());
    drop(lease);
    fixture.ends_clean();
}

#[test]
fn pseries_groups_never_share_a_container() {
    let fixture = Fixture::new("pseries");
    let error = fixture.space.attach_beside(Group(1), Group(0)).unwrap_err();
    assert_eq!(error, AttachError::OneGroup { platform: Platform::Pseries, group: Group(1) });
    fixture.agrees();
}

#[test]
fn two_spaces_share_regions_and_not_maps() {
    let fixture = Fixture::new("pseries-64k");
    let ram = fixture.allocate(16 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    let other = AddressSpace::new(&fixture.registry);
    other.attach(Group(1)).unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    other.map(iova(0, M), at(ram, M), RW).unwrap();
    let error = lease.release().unwrap_err();
    assert_eq!(error.mapped, [iova(0, M), iova(0, M)]);
    // The space that registered first is dropped first: the other's memory stays.
    fixture.space.detach(Group(0)).unwrap();
    assert_eq!(fixture.model.violations(), []);
    assert_eq!(error.lease.release().unwrap_err().mapped, [iova(0, M)]);
    drop(other);
    fixture.ends_clean();
}

#[test]
fn a_device_that_is_open_keeps_its_group() {
    let fixture = Fixture::new("powernv9-64k");
    let address = spapr_iommu::host::Host::groups(fixture.model.as_ref())[0].devices[0].address.clone();
    let device = fixture.space.device(Group(0), &address).unwrap();
    assert_eq!(fixture.space.detach(Group(0)).unwrap_err(), AttachError::DevicesOpen { group: Group(0), count: 1 });
    let region = device.region(7).unwrap();
    drop(device);
    assert_eq!(fixture.space.detach(Group(0)).unwrap_err(), AttachError::DevicesOpen { group: Group(0), count: 1 });
    drop(region);
    fixture.space.detach(Group(0)).unwrap();
    fixture.ends_clean();
}

#[test]
fn what_stands_in_the_way_is_named() {
    let preset = "powernv9".parse().unwrap();
    let fixture = Fixture::with(Model::new(preset).with_host_driver(Group(1), "nvme"));
    let error = fixture.space.attach(Group(1)).unwrap_err();
    assert!(matches!(&error, AttachError::Obstacle(Obstacle::NotViable { driver, .. }) if driver == "nvme"), "{error}");
    let error = fixture.space.attach(Group(7)).unwrap_err();
    assert!(matches!(&error, AttachError::Obstacle(Obstacle::NoGroup { group: Group(7), .. })), "{error}");
    fixture.space.attach(Group(0)).unwrap();
    assert_eq!(fixture.space.attach(Group(0)).unwrap_err(), AttachError::AttachedAlready { group: Group(0) });
    assert_eq!(
        fixture.space.attach_beside(Group(0), Group(0)).unwrap_err(),
        AttachError::AttachedAlready { group: Group(0) }
    );
    assert_eq!(
        fixture.space.attach_beside(Group(1), Group(7)).unwrap_err(),
        AttachError::NotAttached { group: Group(7) }
    );
    assert_eq!(fixture.space.detach(Group(1)).unwrap_err(), AttachError::NotAttached { group: Group(1) });
    let other = AddressSpace::new(&fixture.registry);
    let error = other.attach(Group(0)).unwrap_err();
    assert!(matches!(&error, AttachError::Obstacle(_)), "{error}");
    fixture.ends_clean();
}

#[test]
fn a_panic_leaks_nothing() {
    let fixture = Fixture::new("pseries-64k");
    let model = fixture.model.clone();
    let model_there = fixture.model.clone();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let ram = fixture.allocate(16 * M);
        let _lease = fixture.registry.lease(ram).unwrap();
        fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
        assert_ne!(model_there.locked(), 0);
        std::panic::resume_unwind(Box::new("in between"));
    }));
    assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"in between"), "another panic");
    assert_eq!((model.locked(), model.regions(), model.violations()), (0, vec![], vec![]));
}

#[test]
fn a_killed_process_leaks_nothing() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(16 * M);
        let lease = fixture.registry.lease(ram).unwrap();
        fixture.space.attach(Group(1)).unwrap();
        let other = AddressSpace::new(&fixture.registry);
        fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
        fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
        // The kernel closes open files; nothing in the process runs any longer.
        fixture.model.exit();
        assert_eq!(fixture.model.violations(), [], "{preset}");
        assert_eq!((fixture.model.locked(), fixture.model.regions()), (0, vec![]));
        std::mem::forget((fixture, lease, other));
    }
}

#[test]
fn a_group_joins_whatever_windows_there_are() {
    for preset in PRESETS {
        let without_default = |fixture: &Fixture| {
            fixture.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
            fixture.space.drop_default_window().unwrap();
        };
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(4 * M);
        let _lease = fixture.registry.lease(ram).unwrap();
        without_default(&fixture);
        fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
        fixture.space.attach(Group(1)).unwrap();
        fixture.agrees();
        if preset.starts_with("powernv") {
            // The second slot was filled first.
            let fixture = Fixture::new(preset);
            without_default(&fixture);
            fixture.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
            fixture.space.attach(Group(1)).unwrap();
            fixture.agrees();
        }
    }
}

#[test]
fn memory_that_is_leased_no_more_is_not_asked_for_by_the_next_group() {
    let fixture = Fixture::new("pseries-64k");
    let ram = fixture.allocate(2 * M);
    let mut leases = fixture.registry.lease_all(&[part(ram, 0, M), part(ram, M, M)]).unwrap();
    drop(leases.pop());
    fixture.model.free(part(ram, M, M)).unwrap();
    fixture.space.detach(Group(0)).unwrap();
    fixture.space.attach(Group(0)).unwrap();
    drop(leases);
    fixture.ends_clean();
}

#[test]
fn tables_of_a_container_that_joins_are_counted_before_they_are_made() {
    let fixture = Fixture::with(Model::new("powernv9-64k".parse().unwrap()).with_memlock(Some(9 * M)));
    fixture.space.attach(Group(0)).unwrap();
    fixture.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
    let error = fixture.space.attach(Group(1)).unwrap_err();
    assert!(error.to_string().contains("ulimit"), "{error}");
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn a_group_s_file_is_had_while_none_of_its_devices_is_open() {
    let fixture = Fixture::new("powernv9-64k");
    let file = fixture.space.group_file(Group(0)).unwrap();
    assert!(file.number == Group(0) && file.file.is_none(), "a model has no files");
    assert_eq!(fixture.space.group_file(Group(1)).unwrap_err(), AttachError::NotAttached { group: Group(1) });
    let address = fixture.model.groups()[0].devices[0].address.clone();
    let device = fixture.space.device(Group(0), &address).unwrap();
    assert_eq!(fixture.space.group_file(Group(0)).unwrap_err(), AttachError::DevicesOpen { group: Group(0), count: 1 });
    drop(device);
    assert!(fixture.space.group_file(Group(0)).is_ok());
}

#[test]
fn a_container_that_joins_is_afforded_to_the_last_byte() {
    // A window of 1 GiB takes 256 KiB, and the one that occupies the first slot meanwhile 128 KiB.
    let (window, needed) = (M / 4, M / 4 + M / 8);
    for early in [true, false] {
        for short in [0, 0x1_0000] {
            let fixture = Fixture::new("powernv9-64k");
            let create = || fixture.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
            if early {
                fixture.space.drop_default_window().unwrap();
                create();
            } else {
                create();
                fixture.space.drop_default_window().unwrap();
            }
            assert_eq!(fixture.model.locked(), window);
            fixture.model.set_memlock(Some(window + needed - short), false);
            assert_eq!(fixture.space.attach(Group(1)).is_ok(), short == 0, "dropped early: {early}");
            assert_eq!(fixture.model.locked(), if short == 0 { 2 * window } else { window });
            assert_eq!(fixture.model.leaks(), []);
            fixture.agrees();
            fixture.ends_clean();
        }
    }
}
