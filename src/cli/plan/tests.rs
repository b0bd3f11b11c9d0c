//! A plan matches what happens: each plan is carried out on a model that records its calls.

use super::estimate::{Choice, choices, estimate};
use super::*;
use crate::by_address;
use spapr_iommu::addr::{GuestAddr, GuestRange, Iova, IovaRange, Liobn, PageShift, UserRange};
use spapr_iommu::guest::{GuestIommu, PhbConfig, Slot, Slots};
use spapr_iommu::host::Memory;
use spapr_iommu::model::{Model, Preset, Recording};
use spapr_iommu::pci::Group;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::window::{PlanError, WindowRequest};
use spapr_iommu::{Permission, Registry};
use std::collections::BTreeMap;
use std::sync::Arc;

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

const PRESETS: [&str; 8] = [
    "powernv8-64k",
    "powernv8-4k",
    "powernv9-64k",
    "powernv9-4k-7.2",
    "powernv10-64k",
    "pseries-64k",
    "pseries-4k",
    "pseries-1window",
];

/// What the kernel did.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    ioctls: Ioctls,
    /// Start, size, page, bytes mapped.
    windows: Vec<(u64, u64, u64, u64)>,
    tables: u64,
    locked: u64,
    hypercalls: u64,
}

impl Done {
    fn planned(estimate: &Estimate) -> Self {
        let window = |window: &WindowRow| {
            let start = window.start.unwrap_or(1 << 59);
            (start, window.size, window.page, window.mapped)
        };
        let Locked { tables, start, .. } = estimate.locked;
        let windows = estimate.windows.iter().map(window).collect();
        Self { ioctls: estimate.ioctls, windows, tables, locked: start, hypercalls: estimate.hypercalls.guest_map }
    }
}

/// A machine to carry a plan out on.
struct Bench {
    model: Arc<Model>,
    host: Arc<Recording<Arc<Model>>>,
    registry: Registry,
    memory: UserRange,
}

impl Bench {
    /// Creates a machine whose process may lock `limit` bytes.
    fn new(preset: Preset, wanted: &Wanted, limit: u64) -> Self {
        let model = Model::new(preset).without_freezing().with_groups(wanted.devices.len() as u32);
        let model = Arc::new(model.with_memlock(Some(limit)).with_cap_ipc_lock(false).panic_on_violation());
        let host = Arc::new(Recording::new(Arc::clone(&model)));
        let page = wanted.backing.unwrap_or(preset.page.shift());
        let memory = model.allocate(wanted.memory, page).unwrap();
        Self { model, registry: Registry::new(host.clone()), host, memory }
    }

    /// Returns the number of calls since the last time, by name.
    fn calls(&self) -> BTreeMap<&'static str, u64> {
        let mut calls = BTreeMap::new();
        self.host.take().iter().for_each(|record| *calls.entry(record.call.name()).or_default() += 1);
        calls
    }

    fn count(&self) -> u64 {
        self.calls().values().sum()
    }

    /// Returns the contents of the tables of each container.
    #[track_caller]
    fn windows(&self) -> Vec<(u64, u64, u64, u64)> {
        let mut all: Vec<Vec<_>> = Vec::new();
        for container in self.model.containers() {
            let tables = self.model.tables(container);
            let window = |table: &spapr_iommu::model::TableView| {
                let range = table.range;
                let mapped = table.entries.iter().map(|entry| entry.iova.len()).sum();
                (range.start().0, range.len(), table.page.bytes(), mapped)
            };
            all.push(tables.iter().map(window).collect());
        }
        assert!(all.iter().all(|windows| *windows == all[0]), "the same in each container");
        all.swap_remove(0)
    }

    fn attach(&self, space: &AddressSpace, containers: u32, groups: usize) {
        for group in 0..groups as u32 {
            if group < containers {
                space.attach(Group(group)).unwrap()
            } else {
                space.attach_beside(Group(group), Group(0)).unwrap()
            }
        }
    }

    /// Records the calls so far, and the current state.
    fn count_calls(&self, done: &mut Done, wanted: &Wanted) {
        let calls = self.calls();
        let count = |name: &str| calls.get(name).copied().unwrap_or(0);
        done.ioctls.register = count("VFIO_IOMMU_SPAPR_REGISTER_MEMORY");
        done.ioctls.map = count("VFIO_IOMMU_MAP_DMA");
        done.ioctls.windows = calls.values().sum::<u64>() - done.ioctls.register - done.ioctls.map;
        (done.windows, done.locked) = (self.windows(), self.model.locked());
        done.tables = done.locked - wanted.memory;
    }

    /// Records the calls of the teardown, and checks that nothing is left.
    #[track_caller]
    fn end(&self, done: &mut Done) {
        let calls = self.calls();
        done.ioctls.unmap = calls.get("VFIO_IOMMU_UNMAP_DMA").copied().unwrap_or(0);
        done.ioctls.unregister = calls.get("VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY").copied().unwrap_or(0);
        assert_eq!(calls.values().sum::<u64>(), done.ioctls.unmap + done.ioctls.unregister, "{calls:?}");
        assert_eq!((self.model.locked(), self.model.leaks()), (0, Vec::new()));
        let Ioctls { attach, windows, register, map, unmap, unregister, .. } = done.ioctls;
        done.ioctls.all = attach + windows + register + map + unmap + unregister;
    }
}

/// Maps the memory as a driver does.
fn drive(preset: Preset, wanted: &Wanted, choice: Choice, planned: &Estimate) -> Done {
    let bench = Bench::new(preset, wanted, planned.locked.start + planned.locked.creating);
    let mut done = Done::default();
    {
        let space = AddressSpace::new(&bench.registry);
        bench.attach(&space, choice.containers, wanted.devices.len());
        done.ioctls.attach = bench.count();
        if choice.drop_default {
            space.drop_default_window().unwrap();
        }
        let lease = by_address::register(&bench.registry, bench.memory).unwrap();
        let window = |name| planned.windows.iter().find(|window| window.name == name && window.mapped != 0);
        if let Some(default) = window("default") {
            let range = IovaRange::new(Iova(default.start.unwrap()), default.mapped).unwrap();
            space.map(range, bench.memory.start(), Permission::ReadWrite).unwrap();
        }
        if window("dynamic").is_some() {
            let request = WindowRequest::bytes(wanted.max_memory);
            let request = request.max_iommu_page(wanted.backing.unwrap_or(preset.page.shift()));
            let request = choice.page.map_or(request, |page| request.page(page));
            let start = space.create_window(&request).unwrap().range.start();
            let range = IovaRange::new(start, wanted.memory).unwrap();
            space.map(range, bench.memory.start(), Permission::ReadWrite).unwrap();
        }
        bench.count_calls(&mut done, wanted);
        drop(space);
        drop(lease);
    }
    bench.end(&mut done);
    done
}

/// Lets a guest map all its RAM, as Linux does.
fn boot(preset: Preset, wanted: &Wanted, choice: Choice, planned: &Estimate) -> Done {
    const LIOBN: Liobn = Liobn(0x8000_0000);
    /// Place of the guest's lists.
    const LIST: u64 = 0x10_0000;
    let bench = Bench::new(preset, wanted, planned.locked.start + planned.locked.creating);
    let mut done = Done::default();
    {
        let slots = Arc::new(Slots::new());
        let iommu = GuestIommu::new(&bench.registry, slots.clone());
        let mut config = PhbConfig::new(0x0800_0000_2000_0000, LIOBN).unwrap();
        let offered = choice.page.map_or(wanted.guest_pages.clone(), |page| vec![page]);
        config.pages = offered.iter().fold(0, |pages, page| pages | page.bytes());
        let phb = iommu.add_phb(config).unwrap();
        (0..wanted.devices.len() as u32).for_each(|group| phb.attach(Group(group)).unwrap());
        done.ioctls.attach = bench.count();
        let ram = GuestRange::new(GuestAddr(0), wanted.memory).unwrap();
        by_address::insert(&slots, Slot { guest: ram, user: bench.memory.start() }, bench.model.clone()).unwrap();
        iommu.add_memory().unwrap();
        if planned.windows.iter().all(|window| window.name != "default") {
            phb.remove_window(LIOBN).unwrap();
        }
        if let Some(dynamic) = planned.windows.iter().find(|window| window.name == "dynamic") {
            let page = PageShift::from_bytes(dynamic.guest_page.unwrap()).unwrap();
            let table = phb.create_window(page.get(), dynamic.size.ilog2()).unwrap();
            let (start, all) = (table.window().start().0, wanted.memory >> page.get());
            for first in (0..all).step_by(512) {
                let count = (all - first).min(512);
                let list: Vec<u8> = (first..first + count)
                    .flat_map(|page_number| ((page_number << page.get()) | 3).to_be_bytes())
                    .collect();
                bench.model.write(spapr_iommu::UserAddr(bench.memory.start().0 + LIST), &list).unwrap();
                iommu.h_put_tce_indirect(table.liobn(), start + (first << page.get()), LIST, count).unwrap();
                done.hypercalls += 1;
            }
        }
        if !wanted.needs_dynamic() {
            // The guest's first map creates the default window; its MAP is not in the plan.
            iommu.h_put_tce(LIOBN, 0, 3).unwrap();
            bench.count_calls(&mut done, wanted);
            iommu.h_put_tce(LIOBN, 0, 0).unwrap();
            bench.calls();
            (done.ioctls.map, done.windows) = (0, bench.windows());
        } else {
            bench.count_calls(&mut done, wanted);
        }
    }
    bench.end(&mut done);
    done
}

/// Plans for a preset and carries out every alternative that is not refused. Returns their number.
#[track_caller]
fn check(preset: &str, wanted: &Wanted) -> usize {
    let preset: Preset = preset.parse().unwrap();
    let host = PlanHost::model(preset);
    wanted.check(&host).unwrap();
    let usual = Choice { containers: wanted.devices.len() as u32, page: None, drop_default: false };
    let all = [("usual".to_owned(), usual)].into_iter().chain(choices(&host, wanted, usual));
    let mut carried_out = 0;
    for (name, choice) in all {
        let planned = match estimate(&host, wanted, choice) {
            Ok(planned) => planned,
            Err(PlanError::PageTooLarge { .. } | PlanError::OnlyWindowInUse) => continue,
            Err(error) => panic!("{preset}, {name}: {error}"),
        };
        let done = if wanted.has_guest() {
            boot(preset, wanted, choice, &planned)
        } else {
            drive(preset, wanted, choice, &planned)
        };
        assert_eq!(done, Done::planned(&planned), "{preset}, {name}, {wanted:?}");
        carried_out += 1;
    }
    carried_out
}

#[test]
fn memory_of_hugetlb_is_planned_with_its_pages() {
    for (preset, backings) in
        [("powernv8-4k", &[PageShift::P16M][..]), ("pseries-64k", &[PageShift::P2M, PageShift::P1G])]
    {
        for &backing in backings {
            let wanted = Wanted { backing: Some(backing), max_memory: 4 * G, ..Wanted::new(G) };
            assert!(check(preset, &wanted) > 2, "{preset}");
            let largest = plan(&PlanHost::model(preset.parse().unwrap()), &wanted).unwrap().chosen.unwrap();
            assert!(largest.windows.last().unwrap().page > 64 << 10, "{largest:?}");
        }
    }
}

/// One page less than the planned limit is refused, by the library and before the kernel is asked;
/// the other tests show that the limit is enough.
#[test]
fn no_page_of_the_limit_is_too_much() {
    for preset in PRESETS {
        let parsed: Preset = preset.parse().unwrap();
        let (host, wanted) = (PlanHost::model(parsed), Wanted::new(64 * M));
        let usual = Choice { containers: 1, page: None, drop_default: false };
        for choice in choices(&host, &wanted, usual).into_iter().map(|(_, choice)| choice) {
            let Ok(planned) = estimate(&host, &wanted, choice) else { continue };
            let limit = (planned.locked.limit_kib << 10) - parsed.page.shift().bytes();
            let bench = Bench::new(parsed, &wanted, limit);
            let space = AddressSpace::new(&bench.registry);
            space.attach(Group(0)).unwrap();
            if choice.drop_default {
                space.drop_default_window().unwrap();
            }
            let _lease = by_address::register(&bench.registry, bench.memory).unwrap();
            let page = choice.page.unwrap_or(parsed.page.shift());
            let refused = space.create_window(&WindowRequest::bytes(wanted.memory).page(page)).unwrap_err();
            assert_eq!(refused.code(), "over-limit", "{preset}: {refused}");
        }
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let host = PlanHost::model("powernv9-64k".parse().unwrap());
    let error = |change: fn(&mut Wanted)| {
        let mut wanted = Wanted::new(G);
        change(&mut wanted);
        plan(&host, &wanted).unwrap_err()
    };
    assert!(matches!(error(|wanted| wanted.backing = Some(PageShift::P4K)), WantedError::BelowHostPage { .. }));
    assert!(matches!(error(|wanted| wanted.backing = Some(PageShift::P2M)), WantedError::NoSuchPages { .. }));
    assert!(matches!(error(|wanted| wanted.max_memory = M), WantedError::MaxBelowMemory { .. }));
    assert!(matches!(error(|wanted| wanted.memory = 0), WantedError::NotWholePages { .. }));
    assert!(matches!(error(|wanted| wanted.memory = 4097), WantedError::NotWholePages { .. }));
    assert!(matches!(error(|wanted| wanted.devices = vec![64, 11]), WantedError::Mask { bits: 11 }));
    assert_eq!(error(|wanted| wanted.devices.clear()), WantedError::NoDevice);
    // The largest possible sizes.
    let mut wanted = Wanted::new(1 << 63);
    let document = plan(&host, &wanted).unwrap();
    assert_eq!(document.refused.unwrap().code, "too-large");
    wanted.guest_pages = vec![PageShift::P4K];
    (wanted.memory, wanted.max_memory) = (u64::MAX << 16, u64::MAX << 16);
    assert!(plan(&host, &wanted).unwrap().refused.is_some());
}

#[test]
fn kvm_locks_a_copy_of_each_table_it_keeps() {
    let host = PlanHost::model("powernv9-64k".parse().unwrap());
    let locked = |accelerated, max_memory, page| {
        let wanted = Wanted { accelerated, max_memory, guest_pages: vec![page], ..Wanted::new(G) };
        plan(&host, &wanted).unwrap().chosen.unwrap().locked
    };
    let (without, with) = (locked(false, 8 * G, PageShift::P64K), locked(true, 8 * G, PageShift::P64K));
    // 1 GiB with pages of 4 KiB, 8 GiB with pages of 64 KiB, and a page of pointers for each.
    assert_eq!(with.kvm, 2 * M + M + 2 * (64 << 10));
    assert_eq!((without.kvm, with.start - without.start, with.tables), (0, with.kvm, without.tables));
    assert_eq!(with.limit_kib - without.limit_kib, with.kvm >> 10);
    // A table of 128 MiB is more than the library lets KVM have.
    assert_eq!(locked(true, 64 * G, PageShift::P4K).kvm, 2 * M + (64 << 10));
    let wanted = Wanted { accelerated: true, ..Wanted::new(G) };
    assert_eq!(plan(&host, &wanted).unwrap_err(), WantedError::NoGuest);
}

#[test]
fn a_guest_gets_what_was_planned() {
    let pages = [PageShift::P4K, PageShift::P64K, PageShift::P2M, PageShift::P16M];
    for preset in PRESETS {
        for devices in [vec![64], vec![64, 32]] {
            let guest_pages = pages.to_vec();
            let wanted = Wanted { max_memory: 144 * M, devices, guest_pages, ..Wanted::new(48 * M) };
            assert!(check(preset, &wanted) >= 5, "{preset}");
        }
        let wanted = Wanted { devices: vec![32], guest_pages: pages.to_vec(), ..Wanted::new(16 * M) };
        check(preset, &wanted);
    }
}

#[test]
fn a_driver_gets_what_was_planned() {
    for preset in PRESETS {
        for devices in [vec![64], vec![64, 64, 64], vec![64, 32], vec![32, 30], vec![26]] {
            for (memory, max_memory) in [(64 * M, 64 * M), (512 * M, 3 * G)] {
                let wanted = Wanted { max_memory, devices: devices.clone(), ..Wanted::new(memory) };
                let window = preset.contains("1window") && devices == [64, 32];
                assert!(check(preset, &wanted) >= usize::from(!window), "{preset}, {devices:?}");
            }
        }
    }
}
