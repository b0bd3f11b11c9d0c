//! Leases and the kernel regions under them.

use crate::fixture::{BIG, Fixture, RW, at, iova, part};
use spapr_iommu::Group;
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::Memory;
use spapr_iommu::host::Protection;
use spapr_iommu::registry::{PinError, RegisterError};
use spapr_iommu::space::{AddressSpace, MapError, MapRequest, Overlap};
use spapr_iommu::window::WindowRequest;
use spapr_iommu_tests::by_address::ByAddress;

const M: u64 = 1 << 20;

#[test]
fn only_gaps_are_registered() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(16 * M);
    let a = fixture.registry.lease(part(ram, 0, 4 * M)).unwrap();
    let b = fixture.registry.lease(part(ram, 2 * M, 4 * M)).unwrap();
    let again = fixture.registry.lease(part(ram, 0, 4 * M)).unwrap();
    assert_eq!(fixture.model.locked(), 6 * M);
    let ranges: Vec<_> = fixture.registry.regions().iter().map(|region| (region.range, region.leases)).collect();
    assert_eq!(ranges, [(part(ram, 0, 4 * M), 3), (part(ram, 4 * M, 2 * M), 1)]);
    drop(a);
    assert_eq!(fixture.model.locked(), 6 * M);
    again.release().unwrap();
    // The second lease still needs a part of the first region, which is registered again.
    let ranges: Vec<_> = fixture.registry.regions().iter().map(|region| (region.range, region.leases)).collect();
    assert_eq!(ranges, [(part(ram, 2 * M, 2 * M), 1), (part(ram, 4 * M, 2 * M), 1)]);
    assert_eq!(fixture.model.locked(), 4 * M);
    drop(b);
    assert_eq!(fixture.model.locked(), 0);
    fixture.ends_clean();
}

#[test]
fn what_arrives_together_is_one_region() {
    let fixture = Fixture::new("pseries-64k");
    let ram = fixture.allocate(16 * M);
    let ranges: Vec<_> = (0..16).map(|i| part(ram, i * M, M)).collect();
    let leases = fixture.registry.lease_all(&ranges).unwrap();
    assert_eq!(fixture.registry.regions().len(), 1);
    drop(leases.into_iter().skip(1).collect::<Vec<_>>());
    assert_eq!(fixture.model.locked(), 0);
}

#[test]
fn memory_that_was_given_back_and_is_leased_again_is_what_devices_see() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(2 * M);
    let (low, high) = (part(ram, 0, M), part(ram, M, M));
    let mut leases = fixture.registry.lease_all(&[low, high]).unwrap();
    fixture.space.map(iova(BIG, M), low.start(), RW).unwrap();
    leases.pop().unwrap().release().unwrap();
    // The kernel still holds the old pages of `high`, as part of a mapped region: they cannot be
    // leased.
    let error = fixture.registry.lease(high).unwrap_err();
    assert_eq!(error, RegisterError::Stale { asked: high, part: high });
    fixture.space.unmap(iova(BIG, M)).unwrap();
    assert_eq!(fixture.registry.regions().iter().map(|region| region.range).collect::<Vec<_>>(), [low]);
    let high = fixture.registry.lease(high).unwrap();
    fixture.space.map(iova(BIG, M), high.range().start(), RW).unwrap();
    fixture.agrees();
}

#[test]
fn release_is_refused_while_mapped_and_names_the_bus_addresses() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(16 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    fixture.space.map(iova(BIG, M), at(ram, 4 * M), RW).unwrap();
    fixture.space.map(iova(0x10_0000, M), at(ram, 4 * M), RW).unwrap();
    let error = lease.release().unwrap_err();
    assert_eq!(error.mapped, [iova(0x10_0000, M), iova(BIG, M)]);
    assert!(error.to_string().contains("0x800000000000000"), "{error}");
    // The lease is still valid: more can be mapped.
    fixture.space.map(iova(BIG + M, M), at(ram, 8 * M), RW).unwrap();
    fixture.space.unmap(iova(BIG, 2 * M)).unwrap();
    fixture.space.unmap(iova(0x10_0000, M)).unwrap();
    error.lease.release().unwrap();
    assert_eq!(fixture.registry.regions(), []);
    fixture.ends_clean();
}

#[test]
fn another_lease_on_the_same_memory_lets_the_first_go() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(16 * M);
    let first = fixture.registry.lease(ram).unwrap();
    let second = fixture.registry.lease(part(ram, 4 * M, M)).unwrap();
    fixture.space.map(iova(BIG, M), at(ram, 4 * M), RW).unwrap();
    first.release().unwrap();
    let error = second.release().unwrap_err();
    assert_eq!(error.mapped, [iova(BIG, M)]);
    fixture.agrees();
}

#[test]
fn a_dropped_lease_keeps_what_is_mapped_but_takes_no_new_map() {
    let fixture = Fixture::new("pseries-64k");
    let ram = fixture.allocate(16 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
    let table = fixture.model.locked() - 16 * M;
    drop(lease);
    assert_eq!(fixture.model.locked(), 16 * M + table);
    let error = fixture.space.map(iova(BIG + M, M), at(ram, M), RW).unwrap_err();
    assert!(matches!(error, MapError::Memory(PinError::NotRegistered { .. })), "{error}");
    fixture.space.unmap(iova(BIG, M)).unwrap();
    assert_eq!(fixture.model.locked(), table);
    fixture.agrees();
}

#[test]
fn holes_and_memory_that_cannot_be_pinned_are_found_before_the_kernel_is_asked() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(16 * M);
    fixture.model.free(part(ram, 4 * M, M)).unwrap();
    let error = fixture.registry.lease(ram).unwrap_err();
    assert_eq!(error, RegisterError::Hole { asked: ram, hole: part(ram, 4 * M, M) });
    let other = fixture.allocate(16 * M);
    fixture.model.protect(part(other, 8 * M, M), Protection::Read).unwrap();
    let error = fixture.registry.lease(other).unwrap_err();
    assert_eq!(error, RegisterError::NotPinnable { asked: other, part: part(other, 8 * M, M) });
    let error = fixture.registry.lease(part(ram, 0x1000, 0x10000)).unwrap_err();
    assert!(matches!(error, RegisterError::Misaligned { page: PageShift::P64K, .. }), "{error}");
    assert_eq!((fixture.model.locked(), fixture.registry.regions().len()), (0, 0));
}

#[test]
fn hugetlb_memory_carries_larger_pages_and_is_a_region_of_its_own() {
    let fixture = Fixture::new("pseries-4k");
    let huge = fixture.allocate_huge(8 * M, PageShift::P2M);
    let small = fixture.allocate(M);
    let _leases = fixture.registry.lease_all(&[huge, small]).unwrap();
    assert_eq!(fixture.registry.max_iommu_page(huge), Some(PageShift::P2M));
    assert_eq!(fixture.registry.max_iommu_page(small), Some(PageShift::P4K));
    let request = WindowRequest::bytes(1 << 30).page(PageShift::P64K).max_iommu_page(PageShift::P2M);
    let window = fixture.space.create_window(&request).unwrap();
    assert_eq!(window.page, PageShift::P64K);
    fixture.space.map(iova(BIG, 8 * M), at(huge, 0), RW).unwrap();
    let error = fixture.space.map(iova(BIG + 8 * M, M), at(small, 0), RW).unwrap_err();
    let expected =
        PinError::PageTooLarge { asked: small, region: small, max_iommu_page: PageShift::P4K, page: PageShift::P64K };
    assert_eq!(error, expected.into());
    fixture.agrees();
}

#[test]
fn leases_taken_before_a_group_comes_are_registered_when_it_does() {
    let fixture = Fixture::with(spapr_iommu::model::Model::new("pseries-64k".parse().unwrap()));
    let ram = fixture.allocate(16 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    assert_eq!(fixture.model.locked(), 0);
    fixture.space.attach(Group(0)).unwrap();
    assert_eq!(fixture.model.locked(), 16 * M);
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    fixture.space.detach(Group(0)).unwrap();
    // The lease outlives the container, and the next container registers it again.
    assert_eq!(fixture.model.locked(), 0);
    fixture.space.attach(Group(1)).unwrap();
    fixture.space.map(iova(0, M), at(ram, 0), RW).unwrap();
    fixture.agrees();
    drop(lease);
    fixture.ends_clean();
}

#[test]
fn a_map_over_a_hole_between_two_leases_is_refused() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(4 * M);
    let _leases = [0, 2 * M].map(|at| fixture.registry.lease(part(ram, at, M)).unwrap());
    for len in [2 * M, 3 * M] {
        let error = fixture.space.map(iova(BIG, len), at(ram, 0), RW).unwrap_err();
        let (asked, missing) = (part(ram, 0, len), part(ram, M, len - M));
        assert_eq!(error, MapError::Memory(PinError::NotRegistered { asked, missing }));
    }
    let error = fixture.space.map(iova(BIG, 2 * M), at(ram, M), RW).unwrap_err();
    let (asked, missing) = (part(ram, M, 2 * M), part(ram, M, 2 * M));
    assert_eq!(error, MapError::Memory(PinError::NotRegistered { asked, missing }));
    assert_eq!(fixture.space.mapped(), (0, 0));
    fixture.agrees();
}

#[test]
fn what_is_refused_to_several_spaces_is_named_in_order() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(M);
    let lease = fixture.registry.lease(ram).unwrap();
    let other = AddressSpace::new(&fixture.registry);
    other.attach(Group(1)).unwrap();
    fixture.space.map(iova(BIG, M), at(ram, 0), RW).unwrap();
    other.map(iova(0, M), at(ram, 0), RW).unwrap();
    assert_eq!(lease.release().unwrap_err().mapped, [iova(0, M), iova(BIG, M)]);
}

#[test]
fn memory_that_is_registered_already_can_be_leased_beyond_the_limit() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(4 * M);
    let lease = fixture.registry.lease(ram).unwrap();
    fixture.model.set_memlock(Some(M), false);
    let again = fixture.registry.lease(part(ram, M, M)).unwrap();
    assert!(fixture.registry.lease(fixture.allocate(M)).is_err());
    drop(lease);
    drop(again);
    fixture.ends_clean();
}

#[test]
fn one_request_may_lie_in_several_regions() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(6 * M);
    let low = fixture.registry.lease(part(ram, 0, 4 * M)).unwrap();
    let high = fixture.registry.lease(part(ram, 2 * M, 4 * M)).unwrap();
    fixture.space.map(iova(BIG, 5 * M), at(ram, M), RW).unwrap();
    let mapped: Vec<_> = fixture.registry.regions().iter().map(|region| region.mapped).collect();
    assert_eq!(mapped, [3 * M, 2 * M]);
    fixture.agrees();
    assert_eq!(low.release().unwrap_err().mapped, [iova(BIG, M)], "the rest is leased twice");
    // The first lease was dropped with its error.
    assert_eq!(high.release().unwrap_err().mapped, [iova(BIG + M, 2 * M), iova(BIG + 3 * M, 2 * M)]);
    fixture.space.unmap(iova(BIG, 5 * M)).unwrap();
    assert_eq!(fixture.registry.regions(), []);
    fixture.ends_clean();
}

#[test]
fn each_request_of_a_call_is_checked_with_the_page_of_its_own_window() {
    let fixture = Fixture::new("pseries-4k");
    let ram = fixture.allocate(4 * M);
    let _lease = fixture.registry.lease(ram).unwrap();
    let request = WindowRequest::bytes(1 << 30).page(PageShift::P64K).max_iommu_page(PageShift::P64K);
    fixture.space.create_window(&request).unwrap();
    let request = |start, user| MapRequest { iova: iova(start, M), user: at(ram, user), permission: RW };
    let error = fixture.space.map_all(&[request(0, 0), request(BIG, M)], Overlap::Refuse).unwrap_err();
    let asked = part(ram, M, M);
    let expected = PinError::PageTooLarge { asked, region: ram, max_iommu_page: PageShift::P4K, page: PageShift::P64K };
    assert_eq!(error, expected.into());
    fixture.agrees();
}

#[test]
fn a_part_in_the_middle_of_a_mapping_is_named_by_its_own_bus_addresses() {
    let fixture = Fixture::new("powernv9-64k");
    let ram = fixture.allocate(4 * M);
    let parts = [part(ram, 0, M), part(ram, M, 2 * M), part(ram, 3 * M, M)];
    let mut leases = fixture.registry.lease_all(&parts).unwrap();
    fixture.space.map(iova(BIG, 4 * M), at(ram, 0), RW).unwrap();
    assert_eq!(fixture.space.mappings().len(), 1);
    assert_eq!(leases.remove(1).release().unwrap_err().mapped, [iova(BIG + M, 2 * M)]);
    fixture.agrees();
}
