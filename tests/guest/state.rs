//! Tables that are saved on one host and restored on another.

use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::guest::{PhbConfig, PhbError, RestoreError, SavedIommu, SavedRun, SavedWindow};
use spapr_iommu::model::Model;
use spapr_iommu_tests::guest_fixture::{BIG, BUID, DYNAMIC, Fixture, LIOBN, PRESETS, RAM, tces};

/// A guest with mappings in both windows, on a host of its own.
fn filled(preset: &str) -> Fixture {
    let fixture = Fixture::new(preset);
    fixture.phb.attach(Group(0)).unwrap();
    fixture.put(LIOBN, 0x4000, &tces(0x10_0000, 700, PageShift::P4K));
    fixture.iommu.h_put_tce(LIOBN, 0x1000_0000, 0x77_0002).unwrap();
    fixture.iommu.h_stuff_tce(LIOBN, 0x2000_0000, 0xdead_0000, 9).unwrap();
    fixture.phb.create_window(16, 32).unwrap();
    fixture.put(DYNAMIC, BIG, &tces(0, 1024, PageShift::P64K));
    fixture
}

#[test]
fn what_was_saved_is_restored_and_devices_see_it_on_another_host() {
    for (from, to) in PRESETS.iter().flat_map(|from| PRESETS.iter().map(move |to| (from, to))) {
        let source = filled(from);
        let saved = source.iommu.save();
        assert_eq!(saved.phbs[0].windows.iter().map(|window| window.runs.len()).sum::<usize>(), 4);
        let target = Fixture::new(to);
        target.put(LIOBN, 0x8000, &tces(0, 3, PageShift::P4K));
        target.iommu.restore(&saved).unwrap();
        assert_eq!(target.iommu.save(), saved);
        target.phb.attach(Group(0)).unwrap();
        target.agrees();
        assert_eq!(target.iommu.h_get_tce(LIOBN, 0x2000_0000), Ok(0xdead_0000));
        source.ends_clean();
        target.ends_clean();
    }
}

#[test]
fn a_state_goes_through_any_form_and_is_as_long_as_its_runs() {
    let fixture = filled("powernv9-64k");
    let saved = fixture.iommu.save();
    let text = serde_json::to_string(&saved).unwrap();
    assert!(text.len() < 1000, "{text}");
    assert_eq!(serde_json::from_str::<SavedIommu>(&text).unwrap(), saved);
    fixture.ends_clean();
}

#[test]
fn a_host_that_cannot_have_the_windows_says_so_before_anything_changes() {
    let config = PhbConfig::new(BUID, LIOBN).unwrap().with_dynamic_window(Iova(1 << 58));
    let [source, target] = ["pseries-64k", "powernv9-64k"].map(|preset| {
        let fixture = Fixture::over(Model::new(preset.parse().unwrap()), config);
        fixture.plug(0, RAM);
        fixture
    });
    source.phb.create_window(16, 32).unwrap();
    target.iommu.restore(&source.iommu.save()).unwrap();
    // powernv has its second window at 1 << 59.
    assert!(matches!(target.phb.attach(Group(0)), Err(PhbError::Elsewhere { .. })));
    let changes = target.host.take().iter().filter(|record| record.call.name().contains("TCE_CREATE")).count();
    assert_eq!(changes, 0);
    assert_eq!(target.iommu.save(), source.iommu.save());
    target.ends_clean();
}

#[test]
fn a_state_that_is_not_sound_is_refused_and_changes_nothing() {
    let source = filled("powernv9-64k");
    let good = source.iommu.save();
    let target = Fixture::new("powernv9-64k");
    target.iommu.h_put_tce(LIOBN, 0, 0x1003).unwrap();
    let before = target.iommu.save();
    let refused = |change: &dyn Fn(&mut SavedIommu)| {
        let mut bad = good.clone();
        change(&mut bad);
        let error = target.iommu.restore(&bad).unwrap_err();
        assert_eq!(target.iommu.save(), before);
        error
    };
    assert_eq!(refused(&|bad| bad.version = 2), RestoreError::Version { version: 2 });
    assert_eq!(refused(&|bad| bad.phbs[0].buid = 3), RestoreError::NoPhb { buid: 3 });
    let window = |change: &dyn Fn(&mut SavedWindow)| refused(&|bad| change(&mut bad.phbs[0].windows[1]));
    let changes: [&dyn Fn(&mut SavedWindow); 9] = [
        &|bad| bad.liobn = 9,
        &|bad| bad.liobn = LIOBN.0,
        &|bad| bad.page_shift = 13,
        &|bad| bad.page_shift = u32::MAX,
        &|bad| bad.size = 3 << 30,
        &|bad| bad.size = 1 << 62,
        &|bad| bad.start = 0x1000,
        &|bad| bad.start = BIG + 0x1000,
        &|bad| bad.start = 0,
    ];
    for change in changes {
        assert!(matches!(window(change), RestoreError::Window { .. }));
    }
    assert!(matches!(window(&|bad| bad.start = u64::MAX), RestoreError::Range(_)));
    for run in [(1, 0), (0, u64::MAX), (u64::MAX, 1), (1 << 16, 1), (5, 1 << 16)] {
        let (first, count) = run;
        let error = window(&|bad| bad.runs = vec![SavedRun { first, count, tce: 3 }]);
        assert_eq!(error, RestoreError::Entries { liobn: DYNAMIC, first, count });
    }
    let again = SavedRun { first: 5, count: 2, tce: 3 };
    assert!(matches!(window(&|bad| bad.runs = vec![again, again]), RestoreError::Entries { .. }));
    target.phb.attach(Group(0)).unwrap();
    assert!(matches!(target.iommu.restore(&good), Err(RestoreError::Attached { .. })));
    source.ends_clean();
    target.ends_clean();
}

#[test]
fn entries_that_lead_to_no_ram_here_are_refused_until_it_is_there() {
    let source = filled("powernv9-64k");
    let saved = source.iommu.save();
    let target = Fixture::bare("powernv9-64k");
    target.plug(0, 1 << 20);
    let before = target.iommu.save();
    let refused = target.iommu.restore(&saved).unwrap_err();
    assert!(matches!(refused, RestoreError::NotRam { liobn: LIOBN, first: 4, count: 700, .. }), "{refused}");
    assert_eq!(target.iommu.save(), before);
    assert_eq!(target.phb.translate(Iova(0x4000)), None);
    target.plug(1 << 20, 63 << 20);
    target.iommu.restore(&saved).unwrap();
    target.phb.attach(Group(0)).unwrap();
    target.agrees();
    source.ends_clean();
    target.ends_clean();
}

#[test]
fn the_largest_window_and_its_last_entry_are_restored() {
    let config = PhbConfig::new(BUID, LIOBN).unwrap().with_entries(1 << 12);
    let guests = ["powernv9-64k", "pseries-64k"].map(|preset| {
        let fixture = Fixture::over(Model::new(preset.parse().unwrap()), config);
        fixture.plug(0, RAM);
        fixture
    });
    let [source, target] = guests;
    source.phb.create_window(16, 28).unwrap();
    source.put(DYNAMIC, BIG + (0xffd << 16), &tces(0x10_0000, 3, PageShift::P64K));
    source.iommu.h_put_tce(LIOBN, (1 << 30) - 0x1000, 0x5003).unwrap();
    let saved = source.iommu.save();
    target.iommu.restore(&saved).unwrap();
    assert_eq!(target.iommu.save(), saved);
    assert_eq!(target.iommu.h_get_tce(DYNAMIC, BIG + (0xfff << 16)), Ok(0x12_0003));
}

#[test]
fn a_tce_that_leads_out_of_ram_or_beside_a_page_is_refused() {
    let source = filled("powernv9-64k");
    let good = source.iommu.save();
    let target = Fixture::new("powernv9-64k");
    let before = target.iommu.save();
    for (count, tce) in [(1, RAM | 3), (1, !3 | 3), (2, (RAM - 0x1_0000) | 3), (1, 0x803), (1025, 3), (1, u64::MAX)] {
        let mut bad = good.clone();
        bad.phbs[0].windows[1].runs = vec![SavedRun { first: 7, count, tce }];
        let refused = target.iommu.restore(&bad).unwrap_err();
        assert!(matches!(refused, RestoreError::NotRam { liobn: DYNAMIC, first: 7, .. }), "{refused}");
        assert_eq!(target.iommu.save(), before);
    }
    source.ends_clean();
    target.ends_clean();
}

#[test]
fn a_state_that_names_a_phb_twice_is_refused() {
    let source = filled("powernv9-64k");
    let mut bad = source.iommu.save();
    let target = Fixture::new("powernv9-64k");
    let before = target.iommu.save();
    bad.phbs.push(bad.phbs[0].clone());
    bad.phbs[1].windows.clear();
    // In a thread, since it might deadlock with itself.
    let (sender, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || drop(sender.send((target.iommu.restore(&bad), target))));
    let (refused, target) = done.recv_timeout(std::time::Duration::from_secs(30)).expect("it comes back");
    assert_eq!(refused, Err(RestoreError::DuplicatePhb { buid: BUID }));
    assert_eq!(target.iommu.save(), before);
    source.ends_clean();
    target.ends_clean();
}

/// 216 bytes that once cost 512 MiB and a minute before they were refused because of their second
/// PHB.
#[test]
fn a_short_state_costs_nothing_before_it_is_refused() {
    let target = Fixture::new("powernv9-64k");
    let window = |count, tce| {
        let text = format!(
            r#"{{"version":1,"phbs":[{{"buid":{BUID},"windows":[{{"liobn":{},"start":{BIG},"size":{},"page_shift":12,"runs":[{{"first":0,"count":{count},"tce":{tce}}}]}}]}},{{"buid":1,"windows":[]}}]}}"#,
            DYNAMIC.0,
            1_u64 << 43
        );
        serde_json::from_str::<SavedIommu>(&text).unwrap()
    };
    let start = std::time::Instant::now();
    for tce in [3, 0, 4] {
        let refused = target.iommu.restore(&window(1_u64 << 31, tce));
        assert_eq!(refused, Err(RestoreError::NoPhb { buid: 1 }));
    }
    // By itself it does not lead to RAM; without permissions it is a single value, and costs its
    // directories.
    let alone = |tce| SavedIommu { phbs: window(1 << 31, tce).phbs[..1].to_vec(), ..window(1, 0) };
    assert!(matches!(target.iommu.restore(&alone(3)), Err(RestoreError::NotRam { .. })));
    target.iommu.restore(&alone(4)).unwrap();
    assert_eq!(target.iommu.save().phbs[0].windows[0].runs, [SavedRun { first: 0, count: 1 << 31, tce: 4 }]);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    target.ends_clean();
}

#[test]
fn a_state_whose_table_would_take_too_much_memory_is_refused() {
    let config = PhbConfig::new(BUID, LIOBN).unwrap().with_table_memory(1 << 20);
    let target = Fixture::over(Model::new("powernv9-64k".parse().unwrap()), config);
    target.plug(0, RAM);
    let before = target.iommu.save();
    let mut bad = before.clone();
    // One TCE for each leaf of 512.
    bad.phbs[0].windows[0].runs = (0..300).map(|leaf| SavedRun { first: leaf * 512, count: 1, tce: 3 }).collect();
    let refused = target.iommu.restore(&bad).unwrap_err();
    assert!(matches!(refused, RestoreError::Memory { liobn: LIOBN, limit: 0x10_0000, .. }), "{refused}");
    assert_eq!(target.iommu.save(), before);
    target.ends_clean();
}

#[test]
fn two_dynamic_windows_are_saved_and_restored() {
    let source = Fixture::new("powernv9-64k");
    source.phb.remove_window(LIOBN).unwrap();
    source.phb.create_window(16, 32).unwrap();
    source.phb.create_window(16, 22).unwrap();
    source.put(LIOBN, 0, &tces(0, 64, PageShift::P64K));
    let target = Fixture::new("powernv9-64k");
    target.iommu.restore(&source.iommu.save()).unwrap();
    assert_eq!(target.iommu.save(), source.iommu.save());
    let mut bad = source.iommu.save();
    bad.phbs[0].windows[1].start = 1 << 58;
    assert!(matches!(target.iommu.restore(&bad), Err(RestoreError::Window { liobn: LIOBN, .. })));
    source.ends_clean();
    target.ends_clean();
}
