//! Where the host puts the guest's windows, in whatever order the guest asks for them.

use spapr_iommu::addr::PageShift;
use spapr_iommu::guest::RtasCall;
use spapr_iommu_tests::guest_fixture::{BIG, BUID, DYNAMIC, Fixture, LIOBN, PRESETS, tces};

const HIGH: u32 = (BUID >> 32) as u32;
const LOW: u32 = BUID as u32;

/// What an RTAS call gives; it must succeed.
#[track_caller]
fn rtas<const N: usize>(fixture: &Fixture, call: RtasCall, args: &[u32]) -> [u32; N] {
    let mut rets = [0; N];
    fixture.iommu.rtas(call, args, &mut rets).unwrap();
    rets
}

/// The order that LoPAR recommends where a PE has one window: remove, query, create.
fn remove_query_create(fixture: &Fixture) {
    rtas::<1>(fixture, RtasCall::RemovePeDmaWindow, &[LIOBN.0]);
    let offer: [u32; 5] = rtas(fixture, RtasCall::QueryPeDmaWindow, &[0, HIGH, LOW]);
    assert_eq!(offer[1], 1);
    let made: [u32; 4] = rtas(fixture, RtasCall::CreatePeDmaWindow, &[0, HIGH, LOW, 16, 33]);
    assert_eq!(made, [0, DYNAMIC.0, 0x800_0000, 0]);
}

#[test]
fn a_guest_that_removes_its_default_window_first_gets_the_dynamic_one_where_it_always_is() {
    for preset in PRESETS.iter().filter(|preset| !preset.contains("4k")) {
        let fixture = Fixture::new(preset);
        fixture.phb.attach(0).unwrap();
        fixture.put(LIOBN, 0, &tces(0, 8, PageShift::P4K));
        remove_query_create(&fixture);
        fixture.put(DYNAMIC, BIG, &tces(0, 512, PageShift::P64K));
        fixture.agrees();
        // And again, after it gave that up.
        rtas::<1>(&fixture, RtasCall::RemovePeDmaWindow, &[DYNAMIC.0]);
        let made: [u32; 4] = rtas(&fixture, RtasCall::CreatePeDmaWindow, &[0, HIGH, LOW, 16, 32]);
        assert_eq!(made[2..], [0x800_0000, 0], "{preset}");
        fixture.put(DYNAMIC, BIG, &tces(0, 512, PageShift::P64K));
        fixture.phb.attach(1).unwrap();
        fixture.agrees();
        // A reset brings the default window back, and the dynamic one goes beside it as before.
        rtas::<1>(&fixture, RtasCall::ResetPeDmaWindow, &[0, HIGH, LOW]);
        fixture.put(LIOBN, 0, &tces(0, 8, PageShift::P4K));
        rtas::<4>(&fixture, RtasCall::CreatePeDmaWindow, &[0, HIGH, LOW, 16, 32]);
        fixture.put(DYNAMIC, BIG, &tces(0, 512, PageShift::P64K));
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn a_device_comes_back_to_a_guest_without_its_default_window() {
    for preset in PRESETS.iter().filter(|preset| !preset.contains("4k")) {
        for create_first in [false, true] {
            let fixture = Fixture::new(preset);
            fixture.phb.attach(0).unwrap();
            if create_first {
                rtas::<4>(&fixture, RtasCall::CreatePeDmaWindow, &[0, HIGH, LOW, 16, 33]);
                rtas::<1>(&fixture, RtasCall::RemovePeDmaWindow, &[LIOBN.0]);
            } else {
                remove_query_create(&fixture);
            }
            fixture.put(DYNAMIC, BIG, &tces(0, 512, PageShift::P64K));
            let locked = fixture.model.locked();
            fixture.phb.detach(0).unwrap();
            fixture.phb.attach(0).unwrap();
            assert_eq!(fixture.model.locked(), locked, "{preset}: the same windows as a moment ago");
            fixture.agrees();
            // The same on another host that is alike, and for a first device that is plugged late.
            let saved = fixture.iommu.save();
            let target = Fixture::new(preset);
            target.iommu.restore(&saved).unwrap();
            target.phb.attach(1).unwrap();
            assert_eq!((target.model.locked(), target.iommu.save()), (locked, saved));
            target.agrees();
            let late = Fixture::new(preset);
            rtas::<1>(&late, RtasCall::RemovePeDmaWindow, &[LIOBN.0]);
            rtas::<4>(&late, RtasCall::CreatePeDmaWindow, &[0, HIGH, LOW, 16, 33]);
            late.put(DYNAMIC, BIG, &tces(0, 512, PageShift::P64K));
            late.phb.attach(0).unwrap();
            late.agrees();
            [fixture, target, late].into_iter().for_each(Fixture::ends_clean);
        }
    }
}
