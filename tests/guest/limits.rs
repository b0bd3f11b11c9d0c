//! What a guest can make its VMM spend: memory for tables, time in one call.

use spapr_iommu::guest::{HcallError, Liobn, PhbConfig, PhbError};
use spapr_iommu::model::Model;
use spapr_iommu::uapi::papr::hcall::{
    H_NOT_ENOUGH_RESOURCES, H_PARAMETER, H_PUT_TCE, H_STUFF_TCE, H_SUCCESS, MAX_STUFFED,
};
use spapr_iommu_tests::guest_fixture::{BIG, BUID, DYNAMIC, Fixture, LIOBN, RAM};

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
            fixture.phb.attach(0).unwrap();
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
    // Enough for the directories alone.
    both(PhbConfig { table_memory: Some(64 << 10), ..config() }, |fixture| {
        let liobn = u64::from(DYNAMIC.0);
        let end = BIG + (1 << 38);
        // Not whole branches, but whole leaves.
        assert_eq!(hcall(fixture, H_STUFF_TCE, [liobn, BIG + (LEAF << 16), 0xbeef_0000, MAX_STUFFED]), H_SUCCESS);
        assert_eq!(fixture.iommu.h_get_tce(DYNAMIC, BIG + ((LEAF - 1 + MAX_STUFFED) << 16)), Ok(0xbeef_0000));
        assert_eq!(fixture.iommu.h_get_tce(DYNAMIC, BIG + ((LEAF + MAX_STUFFED) << 16)), Ok(0));
        for first in (0..1 << 22).step_by(MAX_STUFFED as usize) {
            assert_eq!(hcall(fixture, H_STUFF_TCE, [liobn, BIG + (first << 16), 0xdead_0000, MAX_STUFFED]), H_SUCCESS);
        }
        for ioba in [BIG, BIG + (1 << 37) + (5 << 16), end - (1 << 16)] {
            assert_eq!(fixture.iommu.h_get_tce(DYNAMIC, ioba), Ok(0xdead_0000));
        }
        // A save has it as one run.
        let saved = fixture.iommu.save();
        let window = saved.phbs[0].windows.iter().find(|window| window.liobn == DYNAMIC.0).unwrap();
        assert_eq!(window.runs.len(), 1);
        assert_eq!(window.runs[0].count, 1 << 22);
    });
}

#[test]
fn a_table_that_would_take_too_much_memory_is_refused_before_anything_changes() {
    both(PhbConfig { table_memory: Some(64 << 10), ..config() }, |fixture| {
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
        // What has its room already goes on.
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
        // QEMU's default window goes in one.
        assert_eq!(hcall(fixture, H_STUFF_TCE, [LIOBN.0.into(), 0, 0, (1 << 30) >> 12]), H_SUCCESS);
    });
}

#[test]
fn a_phb_needs_a_liobn_for_its_dynamic_window() {
    let last = Liobn(u32::MAX);
    assert_eq!(PhbConfig::new(9, last).unwrap_err(), PhbError::LastLiobn { liobn: last });
    let fixture = Fixture::new("powernv9-64k");
    let by_hand = PhbConfig { buid: 9, liobn: last, ..config() };
    assert_eq!(fixture.iommu.add_phb(by_hand).unwrap_err(), PhbError::LastLiobn { liobn: last });
    let phb = fixture.iommu.add_phb(PhbConfig::new(9, Liobn(u32::MAX - 1)).unwrap()).unwrap();
    assert_eq!(phb.create_window(16, 30).unwrap().liobn(), last);
    drop(phb);
    fixture.ends_clean();
}
