//! Groups that come and go.

use crate::fixture::{BIG, Bench, PRESETS, RW, at, iova, part};
use spapr_iommu::host::{Host, Memory, Obstacle, Platform};
use spapr_iommu::model::Model;
use spapr_iommu::space::{AddressSpace, AttachError};
use spapr_iommu::window::WindowRequest;
use spapr_iommu_tests::by_address::ByAddress;

const M: u64 = 1 << 20;

#[test]
fn a_group_that_joins_sees_what_is_mapped() {
    for preset in PRESETS {
        let bench = Bench::new(preset);
        let ram = bench.allocate(16 * M);
        let lease = bench.registry.lease(ram).unwrap();
        bench.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
        bench.space.map(iova(0, M), at(ram, 0), RW).unwrap();
        bench.space.map(iova(BIG, M), at(ram, 4 * M), RW).unwrap();
        bench.space.attach(1).unwrap();
        assert_eq!(bench.model.containers().len(), 2);
        bench.agrees();
        bench.space.map(iova(BIG + M, M), at(ram, 8 * M), RW).unwrap();
        bench.space.unmap(iova(0, M)).unwrap();
        bench.agrees();
        // Registered twice, charged once.
        assert!(bench.registry.regions().iter().all(|region| region.containers == 2));
        for leaves in [0, 1] {
            bench.space.detach(leaves).unwrap();
            bench.agrees();
        }
        assert_eq!(bench.space.mapped(), (0, 0));
        drop(lease);
        bench.ends_clean();
    }
}

#[test]
fn a_group_that_leaves_a_shared_container_takes_nothing_from_the_others() {
    let bench = Bench::new("powernv9-64k");
    let ram = bench.allocate(16 * M);
    let lease = bench.registry.lease(ram).unwrap();
    bench.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    bench.space.map(iova(BIG, M), at(ram, 4 * M), RW).unwrap();
    bench.space.attach_beside(1, 0).unwrap();
    assert_eq!(bench.model.containers().len(), 1);
    bench.agrees();
    bench.space.detach(0).unwrap();
    bench.agrees();
    bench.space.unmap(iova(0, M)).unwrap();
    drop(bench.space.mappings());
    drop(lease);
    bench.ends_clean();
}

#[test]
fn pseries_groups_never_share_a_container() {
    let bench = Bench::new("pseries");
    let error = bench.space.attach_beside(1, 0).unwrap_err();
    assert_eq!(error, AttachError::OneGroup { platform: Platform::Pseries, group: 1 });
    bench.agrees();
}

#[test]
fn two_spaces_share_regions_and_not_maps() {
    let bench = Bench::new("pseries-64k");
    let ram = bench.allocate(16 * M);
    let lease = bench.registry.lease(ram).unwrap();
    let other = AddressSpace::new(&bench.registry);
    other.attach(1).unwrap();
    bench.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    other.map(iova(0, M), at(ram, M), RW).unwrap();
    let error = lease.release().unwrap_err();
    assert_eq!(error.mapped, [iova(0, M), iova(0, M)]);
    // The space that registered first goes first: the other's memory stays.
    bench.space.detach(0).unwrap();
    assert_eq!(bench.model.violations(), []);
    assert_eq!(error.lease.release().unwrap_err().mapped, [iova(0, M)]);
    drop(other);
    bench.ends_clean();
}

#[test]
fn a_device_that_is_open_keeps_its_group() {
    let bench = Bench::new("powernv9-64k");
    let address = spapr_iommu::host::Host::groups(bench.model.as_ref())[0].devices[0].address.clone();
    let device = bench.space.device(0, &address).unwrap();
    assert_eq!(bench.space.detach(0).unwrap_err(), AttachError::DevicesOpen { group: 0, count: 1 });
    let region = device.region(7).unwrap();
    drop(device);
    assert_eq!(bench.space.detach(0).unwrap_err(), AttachError::DevicesOpen { group: 0, count: 1 });
    drop(region);
    bench.space.detach(0).unwrap();
    bench.ends_clean();
}

#[test]
fn what_stands_in_the_way_is_named() {
    let preset = "powernv9".parse().unwrap();
    let bench = Bench::with(Model::new(preset).with_host_driver(1, "nvme"));
    let error = bench.space.attach(1).unwrap_err();
    assert!(matches!(&error, AttachError::Obstacle(Obstacle::NotViable { driver, .. }) if driver == "nvme"), "{error}");
    let error = bench.space.attach(7).unwrap_err();
    assert!(matches!(&error, AttachError::Obstacle(Obstacle::NoGroup { group: 7, .. })), "{error}");
    bench.space.attach(0).unwrap();
    assert_eq!(bench.space.attach(0).unwrap_err(), AttachError::AttachedAlready { group: 0 });
    assert_eq!(bench.space.attach_beside(0, 0).unwrap_err(), AttachError::AttachedAlready { group: 0 });
    assert_eq!(bench.space.attach_beside(1, 7).unwrap_err(), AttachError::NotAttached { group: 7 });
    assert_eq!(bench.space.detach(1).unwrap_err(), AttachError::NotAttached { group: 1 });
    let other = AddressSpace::new(&bench.registry);
    let error = other.attach(0).unwrap_err();
    assert!(matches!(&error, AttachError::Obstacle(_)), "{error}");
    bench.ends_clean();
}

#[test]
fn a_panic_leaks_nothing() {
    let bench = Bench::new("pseries-64k");
    let model = bench.model.clone();
    let model_there = bench.model.clone();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let ram = bench.allocate(16 * M);
        let _lease = bench.registry.lease(ram).unwrap();
        bench.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
        assert_ne!(model_there.locked(), 0);
        std::panic::resume_unwind(Box::new("in between"));
    }));
    assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"in between"), "another panic");
    assert_eq!((model.locked(), model.regions(), model.violations()), (0, vec![], vec![]));
}

#[test]
fn a_killed_process_leaks_nothing() {
    for preset in PRESETS {
        let bench = Bench::new(preset);
        let ram = bench.allocate(16 * M);
        let lease = bench.registry.lease(ram).unwrap();
        bench.space.attach(1).unwrap();
        let other = AddressSpace::new(&bench.registry);
        bench.space.map(iova(0, M), at(ram, 0), RW).unwrap();
        bench.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
        // The kernel closes what is open; nobody in the process runs any more.
        bench.model.exit();
        assert_eq!(bench.model.violations(), [], "{preset}");
        assert_eq!((bench.model.locked(), bench.model.regions()), (0, vec![]));
        std::mem::forget((bench, lease, other));
    }
}

#[test]
fn a_group_joins_whatever_windows_there_are() {
    for preset in PRESETS {
        let without_default = |bench: &Bench| {
            bench.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
            bench.space.drop_default_window().unwrap();
        };
        let bench = Bench::new(preset);
        let ram = bench.allocate(4 * M);
        let _lease = bench.registry.lease(ram).unwrap();
        without_default(&bench);
        bench.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
        bench.space.attach(1).unwrap();
        bench.agrees();
        if preset.starts_with("powernv") {
            // The second slot was filled first.
            let bench = Bench::new(preset);
            without_default(&bench);
            bench.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
            bench.space.attach(1).unwrap();
            bench.agrees();
        }
    }
}

#[test]
fn memory_that_is_leased_no_more_is_not_asked_for_by_the_next_group() {
    let bench = Bench::new("pseries-64k");
    let ram = bench.allocate(2 * M);
    let mut leases = bench.registry.lease_all(&[part(ram, 0, M), part(ram, M, M)]).unwrap();
    drop(leases.pop());
    bench.model.free(part(ram, M, M)).unwrap();
    bench.space.detach(0).unwrap();
    bench.space.attach(0).unwrap();
    drop(leases);
    bench.ends_clean();
}

#[test]
fn tables_of_a_container_that_joins_are_counted_before_they_are_made() {
    let bench = Bench::with(Model::new("powernv9-64k".parse().unwrap()).with_memlock(Some(9 * M)));
    bench.space.attach(0).unwrap();
    bench.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
    let error = bench.space.attach(1).unwrap_err();
    assert!(error.to_string().contains("ulimit"), "{error}");
    bench.agrees();
    bench.ends_clean();
}

#[test]
fn a_group_s_file_is_had_while_none_of_its_devices_is_open() {
    let bench = Bench::new("powernv9-64k");
    let file = bench.space.group_file(0).unwrap();
    assert!(file.number == 0 && file.file.is_none(), "a model has no files");
    assert_eq!(bench.space.group_file(1).unwrap_err(), AttachError::NotAttached { group: 1 });
    let address = bench.model.groups()[0].devices[0].address.clone();
    let device = bench.space.device(0, &address).unwrap();
    assert_eq!(bench.space.group_file(0).unwrap_err(), AttachError::DevicesOpen { group: 0, count: 1 });
    drop(device);
    assert!(bench.space.group_file(0).is_ok());
}

#[test]
fn a_container_that_joins_is_afforded_to_the_last_byte() {
    // A window of 1 GiB takes 256 KiB, the one that holds the first slot meanwhile 128 KiB.
    let (window, needed) = (M / 4, M / 4 + M / 8);
    for early in [true, false] {
        for short in [0, 0x1_0000] {
            let bench = Bench::new("powernv9-64k");
            let create = || bench.space.create_window(&WindowRequest::bytes(1 << 30)).unwrap();
            if early {
                bench.space.drop_default_window().unwrap();
                create();
            } else {
                create();
                bench.space.drop_default_window().unwrap();
            }
            assert_eq!(bench.model.locked(), window);
            bench.model.set_memlock(Some(window + needed - short), false);
            assert_eq!(bench.space.attach(1).is_ok(), short == 0, "dropped early: {early}");
            assert_eq!(bench.model.locked(), if short == 0 { 2 * window } else { window });
            assert_eq!(bench.model.leaks(), []);
            bench.agrees();
            bench.ends_clean();
        }
    }
}
