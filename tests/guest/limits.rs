//! What a guest can make its VMM spend: memory for tables, time in one call, locked memory. A
//! request that cannot be afforded is refused before anything changes.

use spapr_iommu::ErrorKind;
use spapr_iommu::Group;
use spapr_iommu::addr::PageShift;
use spapr_iommu::guest::{AddMemoryError, DdwError, GuestIommu, HcallError, Liobn, PhbConfig, PhbError, Slot, Slots};
use spapr_iommu::host::{Errno, Host, Memory};
use spapr_iommu::model::{Faulty, Model};
use spapr_iommu::registry::{RegisterError, Registry};
use spapr_iommu::space::WindowError;
use spapr_iommu::uapi::papr::hcall::{
    H_NOT_ENOUGH_RESOURCES, H_PARAMETER, H_PUT_TCE, H_STUFF_TCE, H_SUCCESS, MAX_STUFFED,
};
use spapr_iommu::window::PlanError;
use spapr_iommu_tests::by_address::PlugByAddress;
use spapr_iommu_tests::guest_fixture::{BIG, BUID, DYNAMIC, Fixture, LIOBN, RAM, guest, tces};
use std::sync::Arc;

/// TCEs of a leaf, and its bytes.
const LEAF: u64 = 512;
const LEAF_BYTES: u64 = 4096;

fn config() -> PhbConfig {
    PhbConfig::new(BUID, LIOBN).unwrap()
}

/// A guest with a dynamic window of 2^31 TCEs, with and without a device.
fn both(config: PhbConfig, test: impl Fn(&Fixture)) {
    for attached in [false, true] {
        let fixture = Fixture::over(Model::new("powernv9-64k".parse().unwrap()), config);
        fixture.plug(0, RAM);
        if attached {
            fixture.phb.attach(Group(0)).unwrap();
        }
        fixture.phb.create_window(16, 16 + 22).unwrap();
        test(&fixture);
        fixture.agrees();
        fixture.ends_clean();
    }
}

fn hcall(fixture: &Fixture, number: u64, args: [u64; 4]) -> i64 {
    let mut all = [0; 9];
    all[..4].copy_from_slice(&args);
    fixture.iommu.hcall(number, &mut all).unwrap()
}

#[test]
fn one_value_over_a_whole_window_takes_no_table_memory() {
    // Enough for the directories only.
    both(config().with_table_memory(64 << 10), |fixture| {
        let liobn = u64::from(DYNAMIC.0);
        let end = BIG + (1 << 38);
        // No whole branches, but whole leaves.
        assert_eq!(hcall(fixture, H_STUFF_TCE, [liobn, BIG + (LEAF << 16), 0xbeef_0000, MAX_STUFFED]), H_SUCCESS);
        assert_eq!(fixture.iommu.h_get_tce(DYNAMIC, BIG + ((LEAF - 1 + MAX_STUFFED) << 16)), Ok(0xbeef_0000));
        assert_eq!(fixture.iommu.h_get_tce(DYNAMIC, BIG + ((LEAF + MAX_STUFFED) << 16)), Ok(0));
        for first in (0..1 << 22).step_by(MAX_STUFFED as usize) {
            assert_eq!(hcall(fixture, H_STUFF_TCE, [liobn, BIG + (first << 16), 0xdead_0000, MAX_STUFFED]), H_SUCCESS);
        }
        for ioba in [BIG, BIG + (1 << 37) + (5 << 16), end - (1 << 16)] {
            assert_eq!(fixture.iommu.h_get_tce(DYNAMIC, ioba), Ok(0xdead_0000));
        }
        // A saved state has it as one run.
        let saved = fixture.iommu.save();
        let window = saved.phbs[0].windows.iter().find(|window| window.liobn == DYNAMIC.0).unwrap();
        assert_eq!(window.runs.len(), 1);
        assert_eq!(window.runs[0].count, 1 << 22);
    });
}

#[test]
fn a_table_that_would_take_too_much_memory_is_refused_before_anything_changes() {
    both(config().with_table_memory(64 << 10), |fixture| {
        let liobn = u64::from(DYNAMIC.0);
        let put = |leaf: u64| hcall(fixture, H_PUT_TCE, [liobn, BIG + ((leaf * LEAF) << 16), 3, 0]);
        let full = (0..1000).find(|leaf| put(*leaf) != H_SUCCESS).expect("a limit");
        assert!(full > 4 && full * LEAF_BYTES <= 64 << 10, "after {full} leaves");
        assert_eq!(put(full), H_NOT_ENOUGH_RESOURCES);
        let ioba = BIG + ((full * LEAF) << 16);
        assert_eq!(fixture.iommu.h_get_tce(DYNAMIC, ioba), Ok(0));
        fixture.agrees();
        let stuffed = fixture.iommu.h_stuff_tce(DYNAMIC, ioba + (1 << 16), 4, 7).unwrap_err();
        assert!(matches!(stuffed, HcallError::TableFull { limit: 0x1_0000, .. }), "{stuffed}");
        // Entries that have room already are accepted.
        assert_eq!(hcall(fixture, H_PUT_TCE, [liobn, BIG + (3 << 16), 0x1_0003, 0]), H_SUCCESS);
        assert_eq!(hcall(fixture, H_STUFF_TCE, [liobn, BIG, 0, LEAF * full]), H_SUCCESS);
    });
}

#[test]
fn table_memory_follows_the_guests_ram() {
    both(config(), |fixture| {
        // 16 MiB and a 64th of 64 MiB, of which a branch of 512 leaves takes 12 KiB more.
        let liobn = u64::from(DYNAMIC.0);
        let put = |leaf: u64| hcall(fixture, H_PUT_TCE, [liobn, BIG + ((leaf * LEAF) << 16), 3, 0]);
        let full = (0..8192).find(|leaf| put(*leaf) != H_SUCCESS).expect("a limit");
        assert!((4200..4352).contains(&full), "{full} leaves");
        fixture.plug(1 << 30, 64 << 20);
        assert_eq!(put(full), H_SUCCESS);
        fixture.iommu.h_stuff_tce(DYNAMIC, BIG, 0, MAX_STUFFED).unwrap();
    });
}

#[test]
fn one_call_clears_no_more_than_it_may() {
    both(config(), |fixture| {
        let call = |count| hcall(fixture, H_STUFF_TCE, [DYNAMIC.0.into(), BIG, 0, count]);
        assert_eq!(call(MAX_STUFFED), H_SUCCESS);
        assert_eq!(call(MAX_STUFFED + 1), H_PARAMETER);
        let refused = fixture.iommu.h_stuff_tce(DYNAMIC, BIG, 0, 1 << 20).unwrap_err();
        assert_eq!(refused, HcallError::StuffsTooMany { count: 1 << 20 });
        // QEMU's default window fits in one call.
        assert_eq!(hcall(fixture, H_STUFF_TCE, [LIOBN.0.into(), 0, 0, (1 << 30) >> 12]), H_SUCCESS);
    });
}

#[test]
fn a_phb_needs_a_liobn_for_its_dynamic_window() {
    let last = Liobn(u32::MAX);
    assert_eq!(PhbConfig::new(9, last).unwrap_err(), PhbError::LastLiobn { liobn: last });
    let fixture = Fixture::new("powernv9-64k");
    let mut by_hand = config();
    (by_hand.buid, by_hand.liobn) = (9, last);
    assert_eq!(fixture.iommu.add_phb(by_hand).unwrap_err(), PhbError::LastLiobn { liobn: last });
    let phb = fixture.iommu.add_phb(PhbConfig::new(9, Liobn(u32::MAX - 1)).unwrap()).unwrap();
    assert_eq!(phb.create_window(16, 30).unwrap().liobn(), last);
    drop(phb);
    fixture.ends_clean();
}

const M: u64 = 1 << 20;
/// Charge of powernv's default window.
const DEFAULT: u64 = 8 * M;
/// Charge of the smallest dynamic window, or of what occupies a slot.
const SMALL: u64 = 128 << 10;

/// Creates a guest with 64 MiB of RAM whose host lets `room` more bytes be locked.
fn limited(room: u64) -> Fixture {
    let model = Model::new("powernv9-64k".parse().unwrap()).with_memlock(Some(RAM + room));
    let fixture = Fixture::over(model, PhbConfig::new(BUID, LIOBN).unwrap());
    fixture.plug(0, RAM);
    fixture
}

fn over_limit(why: &WindowError) -> bool {
    matches!(why, WindowError::Refused(PlanError::Memlock(_)))
}

#[test]
fn a_second_group_is_refused_where_its_default_table_has_no_room_and_the_first_works_on() {
    for mapped_first in [false, true] {
        let fixture = limited(2 * DEFAULT - 1);
        fixture.phb.attach(Group(0)).unwrap();
        if mapped_first {
            fixture.iommu.h_put_tce(LIOBN, 0x5000, 0x7003).unwrap();
        }
        let calls = fixture.host.count("VFIO_IOMMU_SPAPR_TCE_CREATE");
        let refused = fixture.phb.attach(Group(1)).unwrap_err();
        assert!(matches!(refused, PhbError::Attach(_)), "{refused}");
        assert!(refused.kind() == ErrorKind::Memlock && refused.code().starts_with("over-"), "{}", refused.code());
        assert_eq!(fixture.host.count("VFIO_IOMMU_SPAPR_TCE_CREATE"), calls);
        fixture.iommu.h_put_tce(LIOBN, 0x6000, 0x7003).unwrap();
        fixture.agrees();
        fixture.model.set_memlock(Some(RAM + 2 * DEFAULT), false);
        fixture.phb.attach(Group(1)).unwrap();
        fixture.iommu.h_put_tce(LIOBN, 0x7000, 0x7003).unwrap();
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn a_device_behind_a_second_phb_is_refused_where_the_first_one_was_promised_the_room() {
    for mapped_first in [false, true] {
        let fixture = limited(2 * DEFAULT - 1);
        let second = fixture.iommu.add_phb(PhbConfig::new(BUID + 1, Liobn(0x8100_0000)).unwrap()).unwrap();
        fixture.phb.attach(Group(0)).unwrap();
        if mapped_first {
            fixture.iommu.h_put_tce(LIOBN, 0x5000, 0x7003).unwrap();
        }
        let refused = second.attach(Group(1)).unwrap_err();
        assert!(matches!(&refused, PhbError::Window { why, .. } if over_limit(why)), "{refused}");
        assert!(refused.kind() == ErrorKind::Memlock && refused.code().starts_with("over-"), "{}", refused.code());
        assert_eq!(fixture.model.containers().len(), 1);
        fixture.iommu.h_put_tce(LIOBN, 0x6000, 0x7003).unwrap();
        fixture.agrees();
        fixture.model.set_memlock(Some(RAM + 2 * DEFAULT), false);
        second.attach(Group(1)).unwrap();
        fixture.iommu.h_put_tce(Liobn(0x8100_0000), 0x6000, 0x7003).unwrap();
        fixture.agrees();
        drop(second);
        fixture.ends_clean();
    }
}

#[test]
fn memory_that_is_plugged_leaves_the_default_table_its_room() {
    let fixture = limited(DEFAULT + M);
    fixture.phb.attach(Group(0)).unwrap();
    let user = fixture.model.allocate(2 * M, Host::page_shift(fixture.model.as_ref())).unwrap().start();
    fixture.slots.plug(Slot { guest: guest(RAM, 2 * M), user }, fixture.model.clone()).unwrap();
    let refused = fixture.iommu.add_memory().unwrap_err();
    assert!(matches!(refused, AddMemoryError::Register(RegisterError::Memlock(_))), "{refused}");
    assert!(refused.kind() == ErrorKind::Memlock && refused.code().starts_with("over-"), "{}", refused.code());
    fixture.iommu.h_put_tce(LIOBN, 0x5000, 0x7003).unwrap();
    fixture.agrees();
}

/// Only the dynamic window remains, and plugged memory took what the default one returned.
fn without_room_for_the_default_window(room: u64) -> Fixture {
    let fixture = limited(DEFAULT + SMALL);
    fixture.phb.attach(Group(0)).unwrap();
    fixture.phb.create_window(16, 21).unwrap();
    fixture.phb.remove_window(LIOBN).unwrap();
    fixture.put(DYNAMIC, BIG, &tces(0, 32, PageShift::P64K));
    fixture.plug(RAM, DEFAULT - room);
    fixture
}

#[test]
fn a_reset_that_cannot_be_afforded_changes_nothing() {
    // The guest's default window is half of the host's, and the dynamic one returns its table.
    for room in [DEFAULT / 2 - 2 * SMALL, DEFAULT / 2 - SMALL] {
        let fixture = without_room_for_the_default_window(room);
        let before = (fixture.iommu.save(), fixture.model.locked());
        let reset = fixture.phb.reset_windows();
        if room + SMALL < DEFAULT / 2 {
            assert!(matches!(&reset, Err(DdwError::Host(why)) if over_limit(why)), "{reset:?}");
            let refused = fixture.iommu.reset().unwrap_err();
            assert!(refused.kind() == ErrorKind::Memlock && refused.code().starts_with("over-"), "{}", refused.code());
            assert_eq!(reset.unwrap_err().kind(), ErrorKind::Memlock);
            assert_eq!((fixture.iommu.save(), fixture.model.locked()), before);
            fixture.iommu.h_put_tce(DYNAMIC, BIG + (1 << 16), 3).unwrap();
        } else {
            reset.unwrap();
            assert_eq!(fixture.phb.tables().len(), 1);
            fixture.iommu.h_put_tce(LIOBN, 0x1000, 0x1003).unwrap();
        }
        fixture.agrees();
    }
}

#[test]
fn a_reset_of_two_dynamic_windows_that_cannot_be_afforded_changes_nothing() {
    for room in [DEFAULT / 2 - 3 * SMALL, DEFAULT / 2 - 2 * SMALL] {
        let fixture = limited(DEFAULT + 2 * SMALL);
        fixture.phb.attach(Group(0)).unwrap();
        fixture.phb.create_window(16, 21).unwrap();
        fixture.phb.remove_window(LIOBN).unwrap();
        fixture.phb.create_window(16, 21).unwrap();
        fixture.put(DYNAMIC, BIG, &tces(0, 32, PageShift::P64K));
        fixture.put(LIOBN, 0, &tces(0, 32, PageShift::P64K));
        fixture.plug(RAM, DEFAULT - room);
        let before = (fixture.iommu.save(), fixture.model.locked());
        let reset = fixture.phb.reset_windows();
        if room + 2 * SMALL < DEFAULT / 2 {
            assert!(matches!(&reset, Err(DdwError::Host(why)) if over_limit(why)), "{reset:?}");
            assert_eq!((fixture.iommu.save(), fixture.model.locked()), before);
        } else {
            reset.unwrap();
            assert_eq!(fixture.phb.tables().len(), 1);
        }
        fixture.agrees();
    }
}

#[test]
fn a_reset_that_the_kernel_refuses_half_way_says_what_is_gone() {
    let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
    let faulty = Arc::new(Faulty::new(Arc::clone(&model)));
    let iommu = GuestIommu::new(&Registry::new(faulty.clone()), Arc::new(Slots::new()));
    let phb = iommu.add_phb(PhbConfig::new(BUID, LIOBN).unwrap()).unwrap();
    phb.attach(Group(0)).unwrap();
    phb.create_window(12, 30).unwrap();
    phb.remove_window(LIOBN).unwrap();
    // REMOVE of the dynamic window, then CREATE of the default one.
    faulty.arm(1, 1, Err(Errno::ENOMEM));
    let error = phb.reset_windows().unwrap_err();
    faulty.disarm();
    assert!(matches!(&error, DdwError::HalfReset { lost, .. } if lost.start().0 == BIG), "{error}");
    assert!(error.to_string().contains("is gone"), "{error}");
    assert_eq!((error.kind(), error.code()), (ErrorKind::Inconsistent, "half-reset"));
    assert!(phb.tables().is_empty() && phb.space().status().windows.is_empty());
}

#[test]
fn a_device_that_comes_back_needs_no_more_than_its_windows_and_a_small_one() {
    let fixture = without_room_for_the_default_window(SMALL);
    let locked = fixture.model.locked();
    fixture.phb.detach(Group(0)).unwrap();
    fixture.phb.attach(Group(0)).unwrap();
    assert_eq!(fixture.model.locked(), locked);
    fixture.agrees();
}
