//! Dynamic windows, as RTAS calls request them, and where the host places them.

use spapr_iommu::Group;
use spapr_iommu::addr::{GuestAddr, Iova, PageShift};
use spapr_iommu::guest::{DdwTokens, GuestMemory, Liobn, PhbConfig, PhbError, RtasCall};
use spapr_iommu_tests::guest_fixture::{BIG, BUID, DYNAMIC, Fixture, LIOBN, LIST, PRESETS, iova, tces};

const TOKENS: DdwTokens = DdwTokens { query: 0x2034, create: 0x2035, remove: 0x2036, reset: 0x2037 };
const HIGH: u32 = (BUID >> 32) as u32;
const LOW: u32 = BUID as u32;
/// RTAS status: a parameter is wrong.
const PARAMETER: u32 = -3_i32 as u32;

/// Makes an RTAS call through guest memory, and returns its results.
fn rtas(fixture: &Fixture, token: u32, args: &[u32], rets: usize) -> Vec<u32> {
    let cells = [&[token, args.len() as u32, rets as u32], args, &vec![9; rets]].concat();
    let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
    fixture.slots.write(GuestAddr(LIST), &bytes).unwrap();
    assert_eq!(fixture.iommu.h_rtas(&TOKENS, GuestAddr(LIST)), Some(0));
    let mut results = vec![0; rets * 4];
    fixture.slots.read(GuestAddr(LIST + 12 + 4 * args.len() as u64), &mut results).unwrap();
    results.as_chunks().0.iter().map(|cell| u32::from_be_bytes(*cell)).collect()
}

#[test]
fn a_window_is_offered_made_filled_and_removed() {
    for (preset, attached) in PRESETS.iter().flat_map(|preset| [(preset, false), (preset, true)]) {
        let fixture = Fixture::new(preset);
        if attached {
            fixture.phb.attach(Group(0)).unwrap();
        }
        let five = rtas(&fixture, TOKENS.query, &[0, HIGH, LOW], 5);
        let six = rtas(&fixture, TOKENS.query, &[0, HIGH, LOW], 6);
        assert_eq!((five[0], five[1]), (0, 1), "{preset}");
        assert_eq!(five[3], 0x107, "{preset}");
        assert_eq!((six[1], six[3], six[4]), (five[1], five[2], five[3]), "{preset}");
        assert!(five[2] >= 1 << 16, "{preset}: {five:x?}");
        let made = rtas(&fixture, TOKENS.create, &[0, HIGH, LOW, 16, 31], 4);
        assert_eq!(made, [0, DYNAMIC.0, (BIG >> 32) as u32, 0], "{preset}");
        assert_eq!(rtas(&fixture, TOKENS.query, &[0, HIGH, LOW], 5)[1], 0);
        assert_eq!(rtas(&fixture, TOKENS.create, &[0, HIGH, LOW, 16, 31], 4), [PARAMETER, 0, 0, 0]);
        fixture.put(DYNAMIC, BIG, &tces(0, 512, PageShift::P64K));
        fixture.agrees();
        assert_eq!(rtas(&fixture, TOKENS.remove, &[DYNAMIC.0], 1), [0]);
        assert!(fixture.iommu.h_get_tce(DYNAMIC, BIG).is_err());
        fixture.agrees();
        assert_eq!(rtas(&fixture, TOKENS.remove, &[DYNAMIC.0], 1), [PARAMETER]);
        fixture.ends_clean();
    }
}

#[test]
fn a_reset_brings_the_default_window_back_empty() {
    for (preset, attached) in PRESETS.iter().flat_map(|preset| [(preset, false), (preset, true)]) {
        let fixture = Fixture::new(preset);
        if attached {
            fixture.phb.attach(Group(0)).unwrap();
        }
        fixture.put(LIOBN, 0, &tces(0, 8, PageShift::P4K));
        rtas(&fixture, TOKENS.create, &[0, HIGH, LOW, 16, 31], 4);
        fixture.put(DYNAMIC, BIG, &tces(0, 8, PageShift::P64K));
        assert_eq!(rtas(&fixture, TOKENS.reset, &[0, HIGH, LOW], 1), [0], "{preset}");
        assert_eq!(fixture.iommu.h_get_tce(LIOBN, 0), Ok(0));
        fixture.agrees();
        // Also after the guest removed it.
        assert_eq!(rtas(&fixture, TOKENS.remove, &[LIOBN.0], 1), [0], "{preset}");
        assert!(fixture.iommu.h_get_tce(LIOBN, 0).is_err());
        assert_eq!(rtas(&fixture, TOKENS.reset, &[0, HIGH, LOW, 1], 1), [0], "{preset}");
        fixture.put(LIOBN, 0, &tces(0, 8, PageShift::P4K));
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn wrong_cells_get_a_status_and_nothing_else() {
    let fixture = Fixture::new("powernv9-64k");
    fixture.phb.attach(Group(0)).unwrap();
    let wrong = |token, args: &[u32], rets| {
        let results = rtas(&fixture, token, args, rets);
        assert_eq!(results[0], PARAMETER, "{args:x?}");
        assert!(results[1..].iter().all(|cell| *cell == 0));
    };
    wrong(TOKENS.query, &[0, HIGH, LOW], 4);
    wrong(TOKENS.query, &[0, HIGH, LOW, 0], 5);
    wrong(TOKENS.query, &[0, LOW, HIGH], 5);
    wrong(TOKENS.create, &[0, HIGH, LOW, 16, 31], 3);
    for (page, window) in [(11, 30), (13, 30), (34, 40), (16, 15), (16, 64), (16, u32::MAX), (u32::MAX, 30), (12, 63)] {
        wrong(TOKENS.create, &[0, HIGH, LOW, page, window], 4);
    }
    wrong(TOKENS.reset, &[0, HIGH], 1);
    wrong(TOKENS.remove, &[7], 1);
    let code = |cells: &[u32]| {
        let bytes: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        fixture.slots.write(GuestAddr(LIST), &bytes).unwrap();
        fixture.iommu.h_rtas(&TOKENS, GuestAddr(LIST))
    };
    assert_eq!(code(&[1, 0, 0]), None);
    assert_eq!(code(&[TOKENS.query, u32::MAX, u32::MAX]), Some(-4));
    assert_eq!(code(&[TOKENS.query, 3, 0]), Some(-4));
    assert_eq!(fixture.iommu.h_rtas(&TOKENS, GuestAddr(u64::MAX)), Some(-4));
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn the_device_tree_says_what_the_calls_take() {
    let fixture = Fixture::new("powernv9-64k");
    let properties = fixture.phb.properties(&TOKENS);
    let value = |name| &properties.iter().find(|property| property.name == name).unwrap().value;
    assert_eq!(value("ibm,dma-window").len(), 20);
    assert_eq!(value("ibm,dma-window")[..4], LIOBN.0.to_be_bytes());
    assert_eq!(value("ibm,ddw-applicable")[..4], TOKENS.query.to_be_bytes());
    assert_eq!(value("ibm,ddw-extensions").len(), 12);
    assert_eq!(TOKENS.call(0x2037), Some(RtasCall::ResetPeDmaWindow));
}

#[test]
fn a_phb_that_makes_no_sense_is_refused() {
    let fixture = Fixture::new("powernv9-64k");
    let good = PhbConfig::new(7, Liobn(0x100)).unwrap();
    let taken = PhbConfig::new(BUID, good.liobn).unwrap();
    assert_eq!(fixture.iommu.add_phb(taken).unwrap_err(), PhbError::BuidTaken { buid: BUID });
    for liobn in [LIOBN, DYNAMIC, Liobn(LIOBN.0 - 1)] {
        let refused = fixture.iommu.add_phb(PhbConfig::new(good.buid, liobn).unwrap());
        assert!(matches!(refused, Err(PhbError::LiobnTaken { .. })), "{liobn}");
    }
    let windows = [
        good.with_default_window(iova(0, 0x1800)),
        good.with_default_window(iova(0, 1 << 62)),
        good.with_entries(1 << 40),
        good.with_dynamic_window(Iova(0)),
        good.with_dynamic_window(Iova((1 << 59) + 4096)),
    ];
    for config in windows {
        assert!(matches!(fixture.iommu.add_phb(config), Err(PhbError::Windows { .. })), "{config:x?}");
    }
    // As many TCEs as allowed.
    fixture.iommu.add_phb(good.with_entries(1 << 36)).unwrap();
    fixture.ends_clean();
}

#[test]
fn two_dynamic_windows_can_be_had_once_the_default_one_is_gone() {
    let fixture = Fixture::new("powernv9-64k");
    let windows = || rtas(&fixture, TOKENS.query, &[0, HIGH, LOW], 5)[1];
    assert_eq!(windows(), 1);
    assert_eq!(rtas(&fixture, TOKENS.remove, &[LIOBN.0], 1), [0]);
    assert_eq!(windows(), 2);
    let create = |page, window| rtas(&fixture, TOKENS.create, &[0, HIGH, LOW, page, window], 4);
    assert_eq!(create(16, 34), [0, DYNAMIC.0, (BIG >> 32) as u32, 0]);
    // The second takes the place of the default window.
    assert_eq!(windows(), 1);
    assert_eq!(create(16, 31), [PARAMETER, 0, 0, 0]);
    assert_eq!(create(16, 22), [0, LIOBN.0, 0, 0]);
    assert_eq!((windows(), create(16, 22)), (0, vec![PARAMETER, 0, 0, 0]));
    fixture.put(LIOBN, 0, &tces(0, 64, PageShift::P64K));
    fixture.put(DYNAMIC, BIG, &tces(0, 64, PageShift::P64K));
    // A reset removes both.
    assert_eq!(rtas(&fixture, TOKENS.reset, &[0, HIGH, LOW], 1), [0]);
    assert_eq!(fixture.phb.tables().iter().map(|table| table.window()).collect::<Vec<_>>(), [iova(0, 1 << 30)]);
    assert_eq!(fixture.iommu.h_get_tce(LIOBN, 0), Ok(0));
    assert!(fixture.iommu.h_get_tce(DYNAMIC, BIG).is_err());
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn with_a_device_a_second_dynamic_window_is_what_the_host_can_have() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        fixture.phb.attach(Group(0)).unwrap();
        fixture.phb.remove_window(LIOBN).unwrap();
        fixture.phb.create_window(16, 32).unwrap();
        let offer = fixture.phb.offer();
        if preset.starts_with("pseries") {
            assert_eq!((offer.windows, offer.entries), (0, 0), "{preset}")
        } else {
            assert_eq!(offer.windows, 1, "{preset}")
        }
        assert_eq!(fixture.phb.create_window(16, 22).is_ok(), offer.windows == 1, "{preset}");
        fixture.agrees();
        fixture.phb.reset_windows().unwrap();
        fixture.put(LIOBN, 0, &tces(0, 8, PageShift::P4K));
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn a_reset_of_the_machine_resets_every_phb() {
    for (preset, attached) in PRESETS.iter().flat_map(|preset| [(preset, false), (preset, true)]) {
        let fixture = Fixture::new(preset);
        let other = fixture.iommu.add_phb(PhbConfig::new(7, Liobn(0x100)).unwrap()).unwrap();
        if attached {
            fixture.phb.attach(Group(0)).unwrap();
            other.attach(Group(1)).unwrap();
        }
        fixture.put(LIOBN, 0, &tces(0, 8, PageShift::P4K));
        other.create_window(16, 30).unwrap();
        other.remove_window(Liobn(0x100)).unwrap();
        fixture.iommu.reset().unwrap();
        for phb in fixture.iommu.phbs() {
            let windows: Vec<_> = phb.tables().iter().map(|table| (table.liobn(), table.window())).collect();
            assert_eq!(windows, [(phb.config().liobn, iova(0, 1 << 30))], "{preset}");
            assert_eq!(fixture.iommu.h_get_tce(phb.config().liobn, 0), Ok(0));
        }
        fixture.agrees();
        drop(other);
        fixture.ends_clean();
    }
}

#[test]
fn a_phb_is_removed_once_its_devices_are_gone() {
    let fixture = Fixture::new("powernv9-64k");
    fixture.phb.attach(Group(0)).unwrap();
    fixture.put(LIOBN, 0, &tces(0, 8, PageShift::P4K));
    assert_eq!(fixture.iommu.remove_phb(BUID), Err(PhbError::InUse { buid: BUID, group: Group(0) }));
    assert_eq!(fixture.iommu.remove_phb(7), Err(PhbError::NoPhb { buid: 7 }));
    fixture.agrees();
    fixture.phb.detach(Group(0)).unwrap();
    fixture.iommu.remove_phb(BUID).unwrap();
    assert!(fixture.iommu.phb(BUID).is_none());
    assert_eq!(
        fixture.iommu.h_put_tce(LIOBN, 0, 3).unwrap_err().to_string(),
        "there is no table with LIOBN 0x80000000"
    );
    // A handle that is still held can do nothing with it.
    let removed = PhbError::Removed { buid: BUID };
    assert_eq!(fixture.phb.attach(Group(0)), Err(removed.clone()));
    assert_eq!(fixture.phb.create_window(16, 30).unwrap_err(), removed.clone().into());
    assert_eq!(fixture.phb.reset_windows(), Err(removed.into()));
    assert_eq!(fixture.phb.translate(Iova(0)), None);
    let again = fixture.iommu.add_phb(PhbConfig::new(BUID, LIOBN).unwrap()).unwrap();
    again.attach(Group(0)).unwrap();
    fixture.put(LIOBN, 0, &tces(0, 8, PageShift::P4K));
    drop(again);
    fixture.agrees();
    fixture.ends_clean();
}

/// Makes an RTAS call that must succeed, and returns its result.
#[track_caller]
fn rtas_rets<const N: usize>(fixture: &Fixture, call: RtasCall, args: &[u32]) -> [u32; N] {
    let mut rets = [0; N];
    fixture.iommu.rtas(call, args, &mut rets).unwrap();
    rets
}

/// The order that LoPAR recommends where a PE has one window: remove, query, create.
fn remove_query_create(fixture: &Fixture) {
    rtas_rets::<1>(fixture, RtasCall::RemovePeDmaWindow, &[LIOBN.0]);
    let offer: [u32; 5] = rtas_rets(fixture, RtasCall::QueryPeDmaWindow, &[0, HIGH, LOW]);
    assert_eq!(offer[1], 1);
    let made: [u32; 4] = rtas_rets(fixture, RtasCall::CreatePeDmaWindow, &[0, HIGH, LOW, 16, 33]);
    assert_eq!(made, [0, DYNAMIC.0, 0x800_0000, 0]);
}

#[test]
fn a_guest_that_removes_its_default_window_first_gets_the_dynamic_one_where_it_always_is() {
    for preset in PRESETS.iter().filter(|preset| !preset.contains("4k")) {
        let fixture = Fixture::new(preset);
        fixture.phb.attach(Group(0)).unwrap();
        fixture.put(LIOBN, 0, &tces(0, 8, PageShift::P4K));
        remove_query_create(&fixture);
        fixture.put(DYNAMIC, BIG, &tces(0, 512, PageShift::P64K));
        fixture.agrees();
        // And again, after removing that one.
        rtas_rets::<1>(&fixture, RtasCall::RemovePeDmaWindow, &[DYNAMIC.0]);
        let made: [u32; 4] = rtas_rets(&fixture, RtasCall::CreatePeDmaWindow, &[0, HIGH, LOW, 16, 32]);
        assert_eq!(made[2..], [0x800_0000, 0], "{preset}");
        fixture.put(DYNAMIC, BIG, &tces(0, 512, PageShift::P64K));
        fixture.phb.attach(Group(1)).unwrap();
        fixture.agrees();
        // A reset restores the default window, and the dynamic one goes next to it as before.
        rtas_rets::<1>(&fixture, RtasCall::ResetPeDmaWindow, &[0, HIGH, LOW]);
        fixture.put(LIOBN, 0, &tces(0, 8, PageShift::P4K));
        rtas_rets::<4>(&fixture, RtasCall::CreatePeDmaWindow, &[0, HIGH, LOW, 16, 32]);
        fixture.put(DYNAMIC, BIG, &tces(0, 512, PageShift::P64K));
        fixture.agrees();
        fixture.ends_clean();
    }
}

/// Detaches the device and attaches it again, and attaches one to the saved guest on an equal host:
/// both find the windows of a moment ago.
fn comes_back(preset: &str, fixture: &Fixture) {
    let locked = fixture.model.locked();
    fixture.phb.detach(Group(0)).unwrap();
    fixture.phb.attach(Group(0)).unwrap();
    assert_eq!(fixture.model.locked(), locked, "{preset}: the same windows as a moment ago");
    fixture.agrees();
    let saved = fixture.iommu.save();
    let target = Fixture::new(preset);
    target.iommu.restore(&saved).unwrap();
    target.phb.attach(Group(1)).unwrap();
    assert_eq!((target.model.locked(), target.iommu.save()), (locked, saved));
    target.agrees();
    target.ends_clean();
}

#[test]
fn a_device_comes_back_to_a_guest_without_its_default_window() {
    for preset in PRESETS.iter().filter(|preset| !preset.contains("4k")) {
        for create_first in [false, true] {
            let fixture = Fixture::new(preset);
            fixture.phb.attach(Group(0)).unwrap();
            if create_first {
                rtas_rets::<4>(&fixture, RtasCall::CreatePeDmaWindow, &[0, HIGH, LOW, 16, 33]);
                rtas_rets::<1>(&fixture, RtasCall::RemovePeDmaWindow, &[LIOBN.0]);
            } else {
                remove_query_create(&fixture);
            }
            fixture.put(DYNAMIC, BIG, &tces(0, 512, PageShift::P64K));
            comes_back(preset, &fixture);
            // The same for a first device that is plugged late.
            let late = Fixture::new(preset);
            rtas_rets::<1>(&late, RtasCall::RemovePeDmaWindow, &[LIOBN.0]);
            rtas_rets::<4>(&late, RtasCall::CreatePeDmaWindow, &[0, HIGH, LOW, 16, 33]);
            late.put(DYNAMIC, BIG, &tces(0, 512, PageShift::P64K));
            late.phb.attach(Group(0)).unwrap();
            late.agrees();
            [fixture, late].into_iter().for_each(Fixture::ends_clean);
        }
    }
}

/// Of two dynamic windows, the second has the default window's place at 0. Which of them is older
/// decides nothing when a device comes back.
#[test]
fn a_device_comes_back_to_two_dynamic_windows_in_either_order() {
    for preset in PRESETS.iter().filter(|preset| preset.starts_with("powernv")) {
        for (again, second_only) in [(false, false), (true, false), (false, true)] {
            let fixture = Fixture::new(preset);
            fixture.phb.attach(Group(0)).unwrap();
            fixture.phb.remove_window(LIOBN).unwrap();
            fixture.phb.create_window(16, 33).unwrap();
            fixture.phb.create_window(16, 22).unwrap();
            if again || second_only {
                fixture.phb.remove_window(DYNAMIC).unwrap();
            }
            if again {
                fixture.phb.create_window(16, 33).unwrap();
            }
            fixture.put(LIOBN, 0, &tces(0, 64, PageShift::P64K));
            fixture.agrees();
            comes_back(preset, &fixture);
            fixture.ends_clean();
        }
    }
}
