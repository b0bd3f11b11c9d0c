//! What a snapshot shows.

use super::{PAGE, Process, range};
use spapr_iommu::addr::{GuestAddr, Iova};
use spapr_iommu::guest::{GuestIommu, Liobn, PhbConfig, Slots};
use spapr_iommu::host::Host;
use spapr_iommu::inspect::{Inspector, Query, Snapshot};
use spapr_iommu::model::Model;
use spapr_iommu::uapi::papr::hcall::{H_PARAMETER, H_PUT_TCE, H_SUCCESS};
use spapr_iommu::{AddressSpace, Group, Permission, Registry};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[test]
fn it_shows_what_is_registered_and_mapped() {
    let process = Process::new();
    process.map(1, 5);
    process.map(2, 6);
    process.map(4, 0);
    process.space.map(range(1, 1), process.user(0), Permission::Read).unwrap_err();
    let snapshot = process.inspector.snapshot(&Query::default());

    let region = process.registry.regions()[0];
    assert_eq!((snapshot.regions.count, snapshot.regions.bytes), (1, 16 << 20));
    let row = &snapshot.regions.rows[0];
    assert_eq!((row.user, row.size, row.mapped, row.leases), (region.range.start().0, 16 << 20, 3 * PAGE, 1));
    let [space] = &snapshot.spaces[..] else { panic!("{:?}", snapshot.spaces) };
    assert_eq!((space.name.as_str(), space.busy, space.default.as_str()), ("main", false, "live"));
    assert_eq!(space.groups.iter().map(|group| group.group).collect::<Vec<_>>(), [0]);
    assert_eq!((space.windows.len(), space.windows[0].mapped), (1, 3 * PAGE));
    assert!(space.windows[0].locked > 0);
    let rows: Vec<_> = space.maps.rows.iter().map(|row| (row.iova, row.size, row.user)).collect();
    assert_eq!(rows, [(PAGE, 2 * PAGE, process.user(5).0), (4 * PAGE, PAGE, process.user(0).0)]);
    assert_eq!((space.maps.runs, space.maps.bytes, space.maps.next), (2, 3 * PAGE, None));
    let calls = space.calls.as_ref().unwrap();
    assert_eq!((calls.maps, calls.map_refusals[0].code.as_str(), calls.map_refusals[0].count), (3, "overlap", 1));
    assert_eq!(snapshot.registrations.as_ref().unwrap().registers, 1);
    // Those of other tests are counted too.
    let map = snapshot.calls.iter().find(|calls| calls.name == "VFIO_IOMMU_MAP_DMA").unwrap();
    assert!(map.calls >= 3);
    let locked = snapshot.host.as_ref().unwrap().locked.unwrap();
    assert_eq!(locked.bytes, (16 << 20) + space.windows[0].locked);
}

#[test]
fn a_pending_window_is_shown_as_such() {
    let process = Process::new();
    let snapshot = process.inspector.snapshot(&Query::default());
    let windows = &snapshot.spaces[0].windows;
    assert_eq!((windows.len(), windows[0].levels, snapshot.spaces[0].default.as_str()), (1, None, "pending"));
}

#[test]
fn a_long_list_is_cut_and_says_where_it_goes_on() {
    let process = Process::new();
    // Not adjacent, so each is a run of its own.
    (0..2000).for_each(|n| process.map(2 * n, n % 256));
    let mut query = Query::default();
    query.maps = 700;
    let (mut seen, mut pages) = (Vec::new(), 0);
    loop {
        let Snapshot { spaces, .. } = process.inspector.snapshot(&query);
        let maps = &spaces[0].maps;
        assert_eq!((maps.runs, maps.bytes), (2000, 2000 * PAGE));
        seen.extend(maps.rows.iter().map(|row| row.iova));
        pages += 1;
        match maps.next {
            Some(next) => query.from = next,
            None => break,
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(seen, (0..2000).map(|n| 2 * n * PAGE).collect::<Vec<_>>());
    let mut query = Query::default();
    query.space = Some("other".into());
    let none = process.inspector.snapshot(&query);
    assert_eq!((none.spaces[0].maps.rows.len(), none.spaces[0].maps.runs), (0, 2000));
}

#[test]
fn regions_are_cut_as_well() {
    let host = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    space.attach(Group(0)).unwrap();
    let memory: Vec<_> = (0..5).map(|_| host.share(PAGE, host.page_shift()).unwrap()).collect();
    let _leases: Vec<_> = memory.iter().map(|memory| registry.register(memory).unwrap()).collect();
    let inspector = Inspector::new(&registry);
    let mut query = Query::default();
    query.regions = 2;
    let first = inspector.snapshot(&query).regions;
    assert_eq!((first.count, first.bytes, first.rows.len()), (5, 5 * PAGE, 2));
    query.regions_from = first.next.unwrap();
    let second = inspector.snapshot(&query).regions;
    let all: Vec<_> = registry.regions().iter().map(|region| region.range.start().0).collect();
    let seen: Vec<_> = first.rows.iter().chain(&second.rows).map(|row| row.user).collect();
    assert_eq!(seen, all[..4]);
}

#[test]
fn it_shows_a_guest() {
    let host = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
    let slots = Slots::new();
    slots.insert(GuestAddr(0), &host.share(64 << 20, host.page_shift()).unwrap()).unwrap();
    let registry = Registry::new(host);
    let guest = GuestIommu::new(&registry, Arc::new(slots));
    guest.add_memory().unwrap();
    let phb = guest.add_phb(PhbConfig::new(0x1234, Liobn(0x8000_0000)).unwrap()).unwrap();
    phb.attach(Group(0)).unwrap();
    let inspector = Inspector::new(&registry);
    inspector.add_guest("vm", &guest);
    let put = |liobn, tce| {
        let mut args = [liobn, 0x1_0000, tce, 0, 0, 0, 0, 0, 0];
        guest.hcall(H_PUT_TCE, &mut args)
    };
    assert_eq!(put(0x8000_0000, 0x100_0003), Some(H_SUCCESS));
    assert_eq!(put(0x8000_0000, 0x4000_0003), Some(H_PARAMETER));
    assert_eq!(put(7, 3), Some(H_PARAMETER));

    let snapshot = inspector.snapshot(&Query::default());
    let [shown] = &snapshot.guests[..] else { panic!("{:?}", snapshot.guests) };
    assert_eq!((shown.slots[0].guest, shown.slots[0].size, shown.slots[0].unplugging), (0, 64 << 20, false));
    let [phb] = &shown.phbs[..] else { panic!("{:?}", shown.phbs) };
    assert_eq!((phb.buid, phb.groups.as_deref()), (0x1234, Some(&[0][..])));
    let entries = phb.windows[0].entries.unwrap();
    assert_eq!((phb.windows[0].liobn, entries.count, entries.all), (0x8000_0000, 1, true));
    assert_eq!((phb.hypercalls.puts, phb.hypercalls.refusals[0].code.as_str()), (1, "not-ram"));
    assert_eq!(shown.without_window.refusals[0].code, "no-table");
    assert_eq!((phb.space.name.as_str(), phb.space.maps.rows[0].iova), ("vm 0x1234", 0x1_0000));
}

#[test]
fn it_keeps_nothing_alive() {
    let Process { registry, space, memory, _lease, inspector } = Process::new();
    let host = Arc::clone(registry.host());
    space.map(range(0, 1), memory.range().start(), Permission::ReadWrite).unwrap();
    drop(space);
    assert_eq!(inspector.snapshot(&Query::default()).spaces, []);
    drop((_lease, memory, registry));
    let after = inspector.snapshot(&Query::default());
    assert_eq!((after.host, after.regions.count), (None, 0));
    assert_eq!(host.memlock().unwrap().locked, 0);
}

#[test]
fn a_space_that_ends_during_inspections_is_taken_down_by_its_owner() {
    let process = Process::new();
    let host = Arc::clone(process.registry.host());
    let before = host.memlock().unwrap().locked;
    let ends = AtomicBool::new(false);
    let after = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(Ordering::Relaxed) {
                process.inspector.snapshot(&Query::default());
            }
        });
        let locked_after_one = |_| {
            let space = AddressSpace::new(&process.registry);
            process.inspector.add_space("short", &space);
            space.attach(Group(1)).unwrap();
            space.map(range(0, 1), process.user(0), Permission::ReadWrite).unwrap();
            drop(space);
            host.memlock().unwrap().locked
        };
        let after: Vec<_> = (0..200).map(locked_after_one).collect();
        ends.store(true, Ordering::Relaxed);
        after
    });
    // At once, on the thread that dropped it: the group is free, and its window no longer charged.
    assert!(after.iter().all(|locked| *locked == before), "{before}: {after:?}");
}

#[test]
fn names_are_cut_and_hold_no_control_characters() {
    let process = Process::new();
    process.inspector.add_space(&format!("a\x1b[2J\n{}", "x".repeat(1000)), &process.space);
    let snapshot = process.inspector.snapshot(&Query::default());
    let name = &snapshot.spaces[1].name;
    assert!(name.starts_with("a[2Jxx") && name.len() == spapr_iommu::inspect::MAX_NAME, "{name:?}");
}

#[test]
fn a_snapshot_survives_json() {
    let process = Process::new();
    process.space.map(range(3, 2), process.user(1), Permission::Write).unwrap();
    let snapshot = process.inspector.snapshot(&Query::default());
    let text = serde_json::to_string(&snapshot).unwrap();
    assert!(text.contains("\"iova\":\"0x30000\""), "{text}");
    assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
    assert!(serde_json::from_str::<Query>("{\"from\": \"30000\"}").is_err(), "an address has its 0x");
    assert_eq!(serde_json::from_str::<Query>("{\"from\": \"0x1\"}").unwrap().from, Iova(1).0);
}
