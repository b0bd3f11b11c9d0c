//! Kernels and firmware that give one container other answers than another, or place a window
//! elsewhere.

use crate::fixture::{BIG, Fixture, RW, at, iova};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, PageShift};
use spapr_iommu::host::{Call, Errno, Fd, Host, Wrapper};
use spapr_iommu::model::Model;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::{AddressSpace, AttachError, MapError, WindowError};
use spapr_iommu::uapi::spapr::TceInfo;
use spapr_iommu::window::WindowRequest;
use spapr_iommu_tests::by_address::{ByAddress, RunCall};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const M: u64 = 1 << 20;
const G: u64 = 1 << 30;

/// Changes the answer of GET_INFO for a container whose newest group is 1.
#[derive(Debug)]
struct OtherInfo {
    model: Arc<Model>,
    change: fn(&mut TceInfo),
    on: AtomicBool,
}

impl Wrapper for OtherInfo {
    type Inner = Model;

    fn inner(&self) -> &Model {
        &self.model
    }

    unsafe fn wrapped_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        let result = self.model.run_call(fd, call);
        if let Call::TceGetInfo(info) = call
            && self.on.load(Ordering::Relaxed)
            && self.model.groups_in(fd).first() == Some(&Group(1))
        {
            (self.change)(info);
        }
        result
    }
}

/// Moves every window above the default one by `shift`, in the containers of these groups.
#[derive(Debug)]
struct Moved {
    model: Arc<Model>,
    groups: &'static [Group],
    shift: u64,
}

impl Wrapper for Moved {
    type Inner = Model;

    fn inner(&self) -> &Model {
        &self.model
    }

    unsafe fn wrapped_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        let moves = self.model.groups_in(fd).iter().any(|group| self.groups.contains(group));
        match call {
            Call::TceRemove(args) if moves && args.start_addr >= self.shift => args.start_addr -= self.shift,
            _ => {}
        }
        let result = self.model.run_call(fd, call);
        match call {
            Call::TceCreate(args) if moves && args.start_addr != 0 => args.start_addr += self.shift,
            _ => {}
        }
        result
    }
}

fn fixture(model: Arc<Model>, host: Arc<dyn Host>) -> Fixture {
    let registry = Registry::new(host);
    let space = AddressSpace::new(&registry);
    space.attach(Group(0)).unwrap();
    Fixture { model, registry, space }
}

/// Returns the windows of each container, except the default one of powernv and pseries.
fn dynamic(fixture: &Fixture) -> Vec<Vec<IovaRange>> {
    let ranges = |container| fixture.model.tables(container).iter().map(|table| table.range).collect::<Vec<_>>();
    let mut all: Vec<_> = fixture.model.containers().into_iter().map(ranges).collect();
    all.iter_mut().for_each(|ranges| ranges.retain(|range| range.start().0 != 0));
    all
}

#[test]
fn a_group_whose_windows_differ_is_not_attached() {
    let changes: [fn(&mut TceInfo); 5] = [
        |info| info.dma32_window_size /= 2,
        |info| info.dma32_window_start = 1 << 30,
        |info| info.ddw.pgsizes &= !0x1_0000,
        |info| info.ddw.max_dynamic_windows_supported -= 1,
        |info| info.flags = 0,
    ];
    for (number, change) in changes.into_iter().enumerate() {
        for preset in ["powernv9-64k", "pseries-64k"] {
            let model = Arc::new(Model::new(preset.parse().unwrap()));
            let host = Arc::new(OtherInfo { model: model.clone(), change, on: AtomicBool::new(true) });
            let fixture = fixture(model, host.clone());
            let ram = fixture.allocate(4 * M);
            let lease = fixture.registry.lease(ram).unwrap();
            fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
            fixture.space.map(iova(BIG, M), at(ram, M), RW).unwrap();
            let before = (fixture.space.mappings(), fixture.registry.regions(), fixture.model.locked());
            let refused = |result: Result<(), AttachError>| {
                assert_eq!(result, Err(AttachError::OtherFacts { group: Group(1) }), "{preset}: change {number}");
                assert_eq!(fixture.model.containers().len(), 1);
                assert_eq!(fixture.model.groups_in(fixture.model.containers()[0]), [Group(0)]);
                let after = (fixture.space.mappings(), fixture.registry.regions(), fixture.model.locked());
                assert_eq!(after, before, "{preset}: change {number}");
                fixture.agrees();
            };
            refused(fixture.space.attach(Group(1)));
            if preset.starts_with("powernv") {
                refused(fixture.space.attach_beside(Group(1), Group(0)));
            }
            // Only the answer is wrong with the group.
            host.on.store(false, Ordering::Relaxed);
            fixture.space.attach(Group(1)).unwrap();
            fixture.agrees();
            drop(lease);
            fixture.ends_clean();
        }
    }
}

#[test]
fn a_window_that_firmware_places_elsewhere_is_removed_again() {
    const SHIFT: u64 = 1 << 58;
    let model = Arc::new(Model::new("pseries-64k".parse().unwrap()));
    let fixture = fixture(model.clone(), Arc::new(Moved { model, groups: &[Group(0), Group(1)], shift: SHIFT }));
    fixture.space.attach(Group(1)).unwrap();
    let ram = fixture.allocate(4 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    let elsewhere = WindowError::Elsewhere { start: Iova(BIG + SHIFT), expected: Iova(BIG) };
    let unchanged = |what: &str| {
        assert_eq!(dynamic(&fixture), [[], []] as [[IovaRange; 0]; 2], "{what}");
        let windows = fixture.space.status().windows;
        assert!(windows.iter().all(|(window, _)| window.range.start().0 == 0), "{what}: {windows:?}");
        fixture.agrees();
    };
    let asked = fixture.space.create_window(&WindowRequest::cover(iova(BIG, G)));
    assert_eq!(asked, Err(elsewhere.clone()));
    unchanged("create_window");
    assert_eq!(fixture.space.reserve(iova(BIG, G)), Err(elsewhere.clone()));
    unchanged("ask");
    assert_eq!(fixture.space.map(iova(BIG, M), at(ram, 0), RW), Err(MapError::Window(elsewhere)));
    unchanged("map");
    // A request by size alone is served wherever the window is.
    let window = fixture.space.create_window(&WindowRequest::bytes(G)).unwrap();
    assert_eq!((window.range, window.page), (iova(BIG + SHIFT, G), PageShift::P64K));
    fixture.space.remove_window(window.range.start()).unwrap();
    unchanged("remove_window");
    // The failed request is forgotten: the next window is not larger because of it.
    assert_eq!(fixture.space.create_window(&WindowRequest::bytes(G)).unwrap().range.len(), G);
    drop(lease);
    fixture.ends_clean();
}

#[test]
fn a_window_past_the_last_bus_address_is_removed_again() {
    let model = Arc::new(Model::new("pseries-64k".parse().unwrap()));
    let fixture = fixture(
        model.clone(),
        Arc::new(Moved { model, groups: &[Group(0), Group(1)], shift: u64::MAX - BIG - 0xffff }),
    );
    fixture.space.attach(Group(1)).unwrap();
    let error = fixture.space.create_window(&WindowRequest::bytes(G)).unwrap_err();
    assert!(matches!(error, WindowError::Elsewhere { start: Iova(0xffff_ffff_ffff_0000), .. }), "{error}");
    assert_eq!(dynamic(&fixture), [[], []] as [[IovaRange; 0]; 2]);
    fixture.agrees();
    fixture.ends_clean();
}

#[test]
fn a_window_that_two_containers_have_at_different_places_is_in_none() {
    for group in [0, 1] {
        let model = Arc::new(Model::new("pseries-64k".parse().unwrap()));
        let groups: &[Group] = if group == 0 { &[Group(0)] } else { &[Group(1)] };
        let fixture = fixture(model.clone(), Arc::new(Moved { model, groups, shift: 1 << 58 }));
        fixture.space.attach(Group(1)).unwrap();
        let error = fixture.space.create_window(&WindowRequest::bytes(G)).unwrap_err();
        assert!(matches!(error, WindowError::Elsewhere { .. }), "{error}");
        assert_eq!(dynamic(&fixture), [[], []] as [[IovaRange; 0]; 2], "group {group}");
        fixture.agrees();
        fixture.ends_clean();
    }
}

#[test]
fn a_group_that_gets_a_window_elsewhere_does_not_join() {
    let model = Arc::new(Model::new("pseries-64k".parse().unwrap()));
    let fixture = fixture(model.clone(), Arc::new(Moved { model, groups: &[Group(1)], shift: 1 << 58 }));
    let ram = fixture.allocate(4 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
    let error = fixture.space.attach(Group(1)).unwrap_err();
    let start = Iova(BIG + (1 << 58));
    let why = WindowError::Elsewhere { start, expected: Iova(BIG) };
    assert_eq!(error, AttachError::Windows { group: Group(1), why });
    assert_eq!(fixture.model.containers().len(), 1);
    fixture.agrees();
    drop(lease);
    fixture.ends_clean();
}
