//! Mapping and unmapping.

use crate::fixture::{BIG, Fixture, PRESETS, RW, at, iova};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, PageShift, UserAddr};
use spapr_iommu::host::{Memory, Wrapper};
use spapr_iommu::model::{Model, Recording};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::{PinError, Registry};
use spapr_iommu::space::{AddressSpace, MapError, MapRequest, Overlap, UnmapError};
use spapr_iommu::window::{PlanError, WindowRequest};
use spapr_iommu_tests::by_address::ByAddress;
use std::sync::Arc;

const M: u64 = 1 << 20;

#[test]
fn what_is_mapped_can_be_found_and_is_gone_when_unmapped() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(16 * M);
        let lease = fixture.registry.lease(ram).unwrap();
        fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
        fixture.space.map(iova(BIG, 4 * M), at(ram, M), RW).unwrap();
        fixture.agrees();
        assert_eq!(fixture.space.translate(Iova(BIG + 5)).unwrap().user, at(ram, M + 5));
        assert_eq!(fixture.space.unmap(iova(BIG, 4 * M)).unwrap(), 4 * M);
        assert_eq!(fixture.space.unmap(iova(0, M)).unwrap(), M);
        assert_eq!(fixture.space.translate(Iova(BIG + 5)), None);
        fixture.agrees();
        lease.release().unwrap();
        fixture.ends_clean();
    }
}

#[test]
fn a_part_of_a_mapping_can_be_unmapped() {
    let fixture = Fixture::new("pseries-64k");
    let ram = fixture.allocate(16 * M);
    let _lease = fixture.registry.lease(ram).unwrap();
    fixture.space.map(iova(BIG, 8 * M), at(ram, 0), RW).unwrap();
    assert_eq!(fixture.space.unmap(iova(BIG + M, 2 * M)).unwrap(), 2 * M);
    fixture.agrees();
    assert_eq!(fixture.space.gaps(iova(BIG, 8 * M)), [iova(BIG + M, 2 * M)]);
    // Memory that is not mapped needs no unmapping, and counts nothing.
    assert_eq!(fixture.space.unmap(iova(BIG, 8 * M)).unwrap(), 6 * M);
    assert_eq!(fixture.space.unmap(iova(BIG, 8 * M)).unwrap(), 0);
    fixture.agrees();
}

#[test]
fn an_overlap_is_refused_and_changes_nothing() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(16 * M);
    let _lease = fixture.registry.lease(ram).unwrap();
    fixture.space.map(iova(BIG, 4 * M), at(ram, 0), RW).unwrap();
    let before = fixture.space.mappings();
    let error = fixture.space.map(iova(BIG + M, 8 * M), at(ram, 4 * M), RW).unwrap_err();
    let expected = MapError::Overlap { asked: iova(BIG + M, 8 * M), present: iova(BIG + M, 3 * M), user: at(ram, M) };
    assert_eq!(error, expected);
    assert_eq!(fixture.space.mappings(), before);
    fixture.agrees();
}

#[test]
fn replacing_leads_to_the_new_memory_and_keeps_the_rest() {
    let fixture = Fixture::new("pseries-64k");
    let ram = fixture.allocate(16 * M);
    let _lease = fixture.registry.lease(ram).unwrap();
    fixture.space.map(iova(BIG, 4 * M), at(ram, 0), RW).unwrap();
    let request = MapRequest { iova: iova(BIG + M, M), user: at(ram, 8 * M), permission: Permission::Read };
    fixture.space.map_all(&[request], Overlap::Replace).unwrap();
    assert_eq!(fixture.space.translate(Iova(BIG)).unwrap().user, at(ram, 0));
    assert_eq!(fixture.space.translate(Iova(BIG + M)).unwrap().user, at(ram, 8 * M));
    assert_eq!(fixture.space.translate(Iova(BIG + M)).unwrap().permission, Permission::Read);
    assert_eq!(fixture.space.translate(Iova(BIG + 2 * M)).unwrap().user, at(ram, 2 * M));
    fixture.agrees();
}

#[test]
fn memory_must_be_registered_throughout() {
    let fixture = Fixture::new("powernv10-64k");
    let ram = fixture.allocate(16 * M);
    let _lease = fixture.registry.lease(crate::fixture::part(ram, 0, 4 * M)).unwrap();
    let error = fixture.space.map(iova(BIG, 8 * M), at(ram, 0), RW).unwrap_err();
    let missing = crate::fixture::part(ram, 4 * M, 4 * M);
    assert_eq!(error, PinError::NotRegistered { asked: crate::fixture::part(ram, 0, 8 * M), missing }.into());
    let error = fixture.space.map(iova(BIG, 2 * M), UserAddr(u64::MAX - M + 1), RW).unwrap_err();
    assert!(matches!(error, MapError::Memory(PinError::NotRegistered { .. })), "{error}");
    fixture.agrees();
}

#[test]
fn what_is_not_aligned_or_reaches_out_never_gets_to_the_kernel() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(16 * M);
        let _lease = fixture.registry.lease(ram).unwrap();
        fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
        let window = fixture.space.status().windows.last().unwrap().0;
        let page = window.page;
        let refused = |start: u64, len: u64, user: UserAddr| fixture.space.map(iova(start, len), user, RW).unwrap_err();
        let error = refused(BIG + M + 0x800, page.bytes(), at(ram, 0));
        assert_eq!(error, MapError::Misaligned { asked: iova(BIG + M + 0x800, page.bytes()), page });
        let error = refused(BIG + M, page.bytes() + 0x800, at(ram, 0));
        assert_eq!(error, MapError::Misaligned { asked: iova(BIG + M, page.bytes() + 0x800), page });
        let error = refused(BIG + M, page.bytes(), at(ram, 0x800));
        assert_eq!(error, MapError::UserMisaligned { asked: iova(BIG + M, page.bytes()), user: at(ram, 0x800), page });
        // One page past the end of the window made on demand, and of the default window.
        let end = window.range.end().0;
        let error = refused(end - page.bytes(), 2 * page.bytes(), at(ram, 0));
        assert!(matches!(error, MapError::NoWindow { why: PlanError::TooSmall { .. }, .. }), "{error}");
        let default = fixture.space.status().facts.unwrap().default.unwrap();
        let error = refused(default.end().0 - 0x10000, 0x20000, at(ram, 0));
        assert!(matches!(error, MapError::NoWindow { why: PlanError::PastEnd { .. }, .. }), "{error}");
        let error = fixture.space.unmap(iova(end - page.bytes(), 2 * page.bytes())).unwrap_err();
        assert!(matches!(error, UnmapError::NoWindow { .. }), "{error}");
        fixture.agrees();
    }
}

#[test]
fn neighbours_of_one_call_go_out_as_one_and_the_same_address_twice_is_refused() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(16 * M);
    let _lease = fixture.registry.lease(ram).unwrap();
    let request = |i: u64| MapRequest { iova: iova(BIG + i * M, M), user: at(ram, i * M), permission: RW };
    // Out of order, still a single run.
    fixture.space.map_all(&[request(2), request(0), request(1)], Overlap::Refuse).unwrap();
    assert_eq!(fixture.space.mapped(), (1, 3 * M));
    let error = fixture.space.map_all(&[request(5), request(4), request(5)], Overlap::Refuse).unwrap_err();
    assert_eq!(error, MapError::Twice { first: iova(BIG + 5 * M, M), second: iova(BIG + 5 * M, M) });
    fixture.agrees();
}

#[test]
fn a_map_that_is_refused_leaves_no_window_behind() {
    let fixture = Fixture::new("pseries-64k");
    let ram = fixture.allocate(M);
    let error = fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap_err();
    assert!(matches!(error, MapError::Memory(_)), "{error}");
    assert_eq!(fixture.space.status().windows, []);
    assert_eq!(fixture.model.locked(), 0);
}

#[test]
fn without_a_group_there_is_nothing_to_map_for() {
    let fixture = Fixture::with(spapr_iommu::model::Model::new("pseries".parse().unwrap()));
    let ram = fixture.allocate(M);
    let _lease = fixture.registry.lease(ram).unwrap();
    let error = fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap_err();
    assert_eq!(error, MapError::NoGroup { asked: iova(0, M) });
}

#[test]
fn contiguous_memory_takes_one_map_per_256_ki_entries() {
    let host = Arc::new(Recording::new(Model::new("powernv9-4k".parse().unwrap())));
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    space.attach(Group(0)).unwrap();
    let size = (512 << 10) * 0x1000 + 0x1000;
    let ram = host.as_ref().inner().allocate(size, PageShift::P4K).unwrap();
    let lease = registry.lease(ram).unwrap();
    space.create_window(&WindowRequest::bytes(size)).unwrap();
    host.take();
    space.map(iova(BIG, size), ram.start(), RW).unwrap();
    assert_eq!(host.take().len(), 3, "512 Ki entries and one more");
    space.unmap(iova(BIG, size)).unwrap();
    assert_eq!(host.take().len(), 3);
    // A batch of neighbours becomes one call.
    let page = |i: u64| MapRequest { iova: iova(BIG + i * 0x1000, 0x1000), user: at(ram, i * 0x1000), permission: RW };
    space.map_all(&(0..1000).map(page).collect::<Vec<_>>(), Overlap::Refuse).unwrap();
    assert_eq!(host.take().len(), 1);
    drop((space, lease));
}

#[test]
fn neighbours_on_the_bus_that_are_none_in_memory_are_mapped_each_to_its_own() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let ram = fixture.allocate(8 * M);
        let _lease = fixture.registry.lease(ram).unwrap();
        let request =
            |start, user, permission| MapRequest { iova: iova(BIG + start, M), user: at(ram, user), permission };
        let others = [request(0, 0, RW), request(M, 4 * M, RW), request(2 * M, 5 * M, Permission::Read)];
        fixture.space.map_all(&others, Overlap::Refuse).unwrap();
        assert_eq!(fixture.space.mappings().len(), 3, "{preset}");
        fixture.agrees();
        // Also when they are restored in a container.
        fixture.space.attach(Group(1)).unwrap();
        fixture.agrees();
    }
}

#[test]
fn a_space_that_ends_in_order_unmaps_and_unregisters() {
    let host = Arc::new(Recording::new(Model::new("powernv9-64k".parse().unwrap())));
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    space.attach(Group(0)).unwrap();
    let ram = host.as_ref().inner().allocate(4 * M, PageShift::P64K).unwrap();
    let _lease = registry.lease(ram).unwrap();
    space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
    space.map(iova(BIG + M, M), at(ram, 2 * M), RW).unwrap();
    space.unmap(iova(BIG, M)).unwrap();
    host.take();
    drop(space);
    let names: Vec<_> = host.take().iter().map(|record| record.call.name()).collect();
    assert_eq!(names, ["VFIO_IOMMU_UNMAP_DMA", "VFIO_IOMMU_SPAPR_UNREGISTER_MEMORY"]);
}
