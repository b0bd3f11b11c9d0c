//! MAP_DMA, page by page: which memory can serve, what happens to earlier mappings, what a failure
//! leaves.

use crate::fixture::{Fixture, HIGH, K4, K64, Library, at, iova, part};
use spapr_iommu::addr::{Iova, PageShift};
use spapr_iommu::host::Errno;
use spapr_iommu::model::{Faulty, Recording, Violation};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::PinError;
use spapr_iommu::space::{MapError, MapRequest, Overlap};
use spapr_iommu::window::WindowRequest;
use spapr_iommu_tests::by_address::ByAddress;
use std::sync::Arc;

const RW: Permission = Permission::ReadWrite;

/// The same error as for an invalid argument.
pub(crate) fn map_of_unregistered_memory_is_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let stranger = fixture.memory(K64);
    assert_eq!(raw.map(stranger.start(), K4, K4), Err(Errno::EINVAL));
    assert_eq!(raw.map(spapr_iommu::addr::UserAddr(u64::MAX - 0xfff), K4, K4), Err(Errno::EINVAL));
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let refused = library.space.map(iova(K4, K4), stranger.start(), RW).unwrap_err();
    assert!(
        matches!(&refused, MapError::Memory(PinError::NotRegistered { missing, .. }) if *missing == part(stranger, 0, K4)),
        "{refused}"
    );
}

/// Each page must lie in one region, not the whole map.
pub(crate) fn map_goes_on_from_one_region_into_its_neighbour(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = fixture.memory(2 * K64);
    let halves = [part(memory, 0, K64), part(memory, K64, K64)];
    assert_eq!(halves.map(|half| raw.register(half)), [Ok(0); 2]);
    assert_eq!(raw.map(at(memory, K64 - 2 * K4), K4, 4 * K4), Ok(0));
    assert_eq!(raw.unmap(K4, 4 * K4), Ok(0));
    halves.into_iter().for_each(|half| raw.gives_back(half));
    drop(raw);

    let library = fixture.library();
    let _leases = halves.map(|half| library.registry.lease(half).unwrap());
    let across = iova(K4, 4 * K4);
    library.space.map(across, at(memory, K64 - 2 * K4), RW).unwrap();
    assert_eq!(library.space.mapped().1, 4 * K4);
    library.space.unmap(across).unwrap();
}

/// Although both halves are registered and lie in one hugetlb page.
pub(crate) fn map_of_a_page_in_two_regions_is_einval(fixture: &Fixture) {
    let page = PageShift::P2M;
    let memory = fixture.huge(page.bytes(), page).unwrap();
    let halves = [part(memory, 0, page.bytes() / 2), part(memory, page.bytes() / 2, page.bytes() / 2)];
    let raw = fixture.v2();
    assert_eq!(halves.map(|half| raw.register(half)), [Ok(0); 2]);
    let start = raw.create(page.get(), 1 << 30, 1).unwrap();
    assert_eq!(raw.map(memory.start(), start, page.bytes()), Err(Errno::EINVAL));
    halves.into_iter().for_each(|half| raw.gives_back(half));
    drop(raw);

    let library = fixture.library();
    let _leases = halves.map(|half| library.registry.lease(half).unwrap());
    let window = library.space.create_window(&WindowRequest::bytes(1 << 30).page(page).max_iommu_page(page)).unwrap();
    let refused = library.space.map(iova(window.range.start().0, page.bytes()), memory.start(), RW).unwrap_err();
    assert!(
        matches!(refused, MapError::Memory(PinError::PageTooLarge { .. } | PinError::Straddles { .. })),
        "{refused}"
    );
}

/// The IOMMU page decides, not the host page.
pub(crate) fn map_takes_memory_at_any_iommu_page_of_a_host_page(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    for index in [1, 2, 15] {
        assert_eq!(raw.map(at(memory, index * K4), 0x10_0000 - index * K4, K4), Ok(0));
    }
    assert_eq!(raw.unmap(0x10_0000 - 15 * K4, 15 * K4), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0x7000, K4), at(memory, 3 * K4), RW).unwrap();
    let there = library.space.translate(Iova(0x7008)).unwrap();
    assert_eq!(there.user, at(memory, 3 * K4 + 8));
    library.space.unmap(iova(0x7000, K4)).unwrap();
}

/// No error, no hint; the displaced memory can be released.
pub(crate) fn map_over_a_mapping_replaces_it_silently(fixture: &Fixture) {
    let raw = fixture.v2();
    let (old, new) = (raw.registered(K64), raw.registered(K64));
    assert_eq!(raw.map(old.start(), K64, K64), Ok(0));
    assert_eq!(raw.map(new.start(), K64, K64), Ok(0));
    raw.gives_back(old);
    assert_eq!(raw.unmap(K64, K64), Ok(0));
    raw.gives_back(new);
    drop(raw);

    let library = fixture.library();
    let ((old, _a), (new, _b)) = (library.leased(K64), library.leased(K64));
    let place = iova(K64, K64);
    library.space.map(place, old.start(), RW).unwrap();
    let refused = library.space.map(place, new.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::Overlap { user, .. } if user == old.start()), "{refused}");
    let request = MapRequest { iova: place, user: new.start(), permission: RW };
    library.space.map_all(&[request], Overlap::Replace).unwrap();
    assert_eq!(library.space.translate(place.start()).unwrap().user, new.start());
    library.space.unmap(place).unwrap();
}

/// Its rollback clears the pages it had mapped so far, and their earlier mappings do not come back.
/// Pages after these stay.
pub(crate) fn map_that_fails_destroys_what_it_covered_and_keeps_the_rest(fixture: &Fixture) {
    let raw = fixture.v2();
    let old = raw.registered(K64);
    let new = fixture.memory(2 * K64);
    assert_eq!(raw.register(part(new, 0, K64)), Ok(0));
    assert_eq!(raw.map(old.start(), K64, 8 * K4), Ok(0));
    // Four good pages, then four unregistered ones.
    assert_eq!(raw.map(at(new, K64 - 4 * K4), K64, 8 * K4), Err(Errno::EINVAL));
    if let Some(entries) = raw.entries(0) {
        assert_eq!(entries, [(K64 + 4 * K4, 4 * K4, at(old, 4 * K4).0)]);
    }
    raw.gives_back(part(new, 0, K64));
    // The first four are gone: without the last four nothing is mapped.
    assert_eq!(raw.unmap(K64 + 4 * K4, 4 * K4), Ok(0));
    raw.gives_back(old);
    drop(raw);

    // Checked beforehand, so there is nothing to roll back.
    let library = fixture.library();
    let (old, _lease) = library.leased(K64);
    let _half = library.registry.lease(part(new, 0, K64)).unwrap();
    let place = iova(K64, 8 * K4);
    library.space.map(place, old.start(), RW).unwrap();
    let request = MapRequest { iova: place, user: at(new, K64 - 4 * K4), permission: RW };
    let refused = library.space.map_all(&[request], Overlap::Replace).unwrap_err();
    assert!(matches!(refused, MapError::Memory(PinError::NotRegistered { .. })), "{refused}");
    assert_eq!(library.space.translate(place.start()).unwrap().user, old.start());
    library.space.unmap(place).unwrap();
}

/// If the kernel fails nevertheless, the library restores what the rollback removed.
pub(crate) fn map_that_the_kernel_fails_is_put_back_and_not_tried_again(fixture: &Fixture) {
    // EINTR is the hypervisor's H_PARAMETER, not a signal: a caller who retries would never stop.
    let faulty = Arc::new(Recording::new(Faulty::new(fixture.kernel.clone())));
    let library = fixture.library_on(faulty.clone());
    let ((old, _a), (new, _b)) = (library.leased(K64), library.leased(K64));
    let place = iova(K64, K64);
    library.space.map(place, old.start(), RW).unwrap();
    for result in [Err(Errno::EINTR), Ok(1)] {
        let within = spapr_iommu::host::Wrapper::inner(&*faulty);
        // One call registers the region where it is mapped, at the first use.
        let request = MapRequest { iova: place, user: new.start(), permission: RW };
        faulty.take();
        within.arm(0, 1, result);
        let refused = library.space.map_all(&[request], Overlap::Replace).unwrap_err();
        assert_eq!(within.disarm(), 1);
        assert!(matches!(refused, MapError::Refused(_)), "{refused}");
        let maps: Vec<_> =
            faulty.take().into_iter().filter(|record| record.call.name() == "VFIO_IOMMU_MAP_DMA").collect();
        assert_eq!(maps.len(), 2, "the one that failed and the old mapping: {maps:?}");
        assert_eq!(library.space.translate(place.start()).unwrap().user, old.start());
        fixture.on_model(|model| {
            let container = model.containers()[0];
            let entries = &model.tables(container)[0].entries;
            assert!(entries.len() == 1 && entries[0].user == old.start(), "{entries:?}");
        });
    }
    library.space.unmap(place).unwrap();
}

/// Less than a page of TCEs, so that the kernel's array has room after them.
const SMALL: u64 = 4 * K4;

/// Returns the library's error for a map past the end of a small window.
fn refused_past_the_end_of(library: &Library<'_>, request: &WindowRequest) {
    let window = library.space.create_window(request).unwrap();
    let (memory, _lease) = library.leased(K64);
    library.calls();
    let past = iova(window.range.end().0 - K4, 2 * K4);
    let refused = library.space.map(past, memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::NoWindow { .. }) && library.calls().is_empty(), "{refused}");
}

/// The exchange of the page after the end fails with the hypervisor's H_PARAMETER, -4, which is
/// EINTR; the region's count stays one too high, and the kernel warns when the container goes.
pub(crate) fn map_past_the_end_of_a_small_window_is_eintr_and_leaks_a_count(fixture: &Fixture) {
    fixture.scars(|| {
        let raw = fixture.v2();
        let memory = raw.registered(K64);
        let start = raw.create(12, SMALL, 1).unwrap();
        assert_eq!(start, HIGH);
        assert_eq!(raw.map(memory.start(), start + SMALL - 2 * K4, 3 * K4), Err(Errno::EINTR));
        // Nothing is mapped, and yet the memory cannot be unregistered.
        assert_eq!(raw.unmap(start, SMALL), Ok(0));
        let (result, cost) = fixture.cost(|| raw.unregister(memory));
        assert_eq!((result, cost), (Ok(0), 0));
        fixture.on_model(|model| {
            assert!(model.violations().contains(&Violation::LeakedCount { range: memory }), "{:?}", model.violations());
        });
    });
    refused_past_the_end_of(&fixture.library(), &WindowRequest::cover(iova(HIGH, SMALL)).page(PageShift::P4K));
}

/// The firmware's default window keeps its size, however small a table the kernel made for it:
/// pages after its end are mapped where there is no window, out of reach of UNMAP and of the
/// window's removal.
pub(crate) fn map_past_the_end_of_a_small_default_window_maps_there(fixture: &Fixture) {
    fixture.scars(|| {
        let raw = fixture.v2();
        let memory = raw.registered(K64);
        assert_eq!(raw.remove(0), Ok(0));
        assert_eq!(raw.create(12, SMALL, 1), Ok(0));
        assert_eq!(raw.map(memory.start(), SMALL - 2 * K4, 3 * K4), Ok(0));
        assert_eq!(raw.unmap(SMALL, K4), Err(Errno::ENXIO));
        assert_eq!((raw.unmap(0, SMALL), raw.remove(0)), (Ok(0), Ok(0)));
        let (result, cost) = fixture.cost(|| raw.unregister(memory));
        assert_eq!((result, cost), (Ok(0), 0), "one TCE still points there");
    });
    let library = fixture.library();
    library.space.drop_default_window().unwrap();
    refused_past_the_end_of(&library, &WindowRequest::bytes(SMALL).page(PageShift::P4K));
}

/// Memory after the table is overwritten: no error, and no sign except in what breaks later.
pub(crate) fn map_past_the_end_of_a_window_returns_0_on_powernv(fixture: &Fixture) {
    let end = fixture.default_window();
    fixture.scars(|| {
        let raw = fixture.v2();
        let memory = raw.registered(K64);
        assert_eq!(raw.map(memory.start(), end - K4, 2 * K4), Ok(0));
        fixture.on_model(|model| {
            assert!(matches!(model.violations()[..], [Violation::MapPastWindow { fatal: false, .. }]))
        });
    });
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    let asked = iova(end - K4, 2 * K4);
    let refused = library.space.map(asked, memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::NoWindow { asked: named, .. } if named == asked), "{refused}");
}

/// The kernel holds the pages that were there at REGISTER: memory that was unmapped since can still
/// be mapped for devices.
pub(crate) fn map_of_memory_that_is_gone_leads_to_its_old_pages(fixture: &Fixture) {
    let raw = fixture.v2();
    let (gone, live) = (raw.registered(K64), raw.registered(K64));
    fixture.fill(gone, 0x5a);
    fixture.fill(live, 0);
    fixture.free(gone);
    assert_eq!(raw.map(gone.start(), 0, K4), Ok(0));
    assert_eq!(raw.map(live.start(), K4, K4), Ok(0));
    let device = raw.device(0).unwrap();
    raw.dma(device, 0, K4, 64);
    assert_eq!((fixture.byte(live, 0), fixture.byte(live, 63), fixture.byte(live, 64)), (0x5a, 0x5a, 0));
    raw.close_devices();
    assert_eq!(raw.unmap(0, 2 * K4), Ok(0));
    raw.gives_back(gone);
    raw.gives_back(live);
    drop(raw);

    // Memory of which a part was released cannot be leased again while devices may see the old
    // pages.
    let library = fixture.library();
    let memory = fixture.memory(2 * K64);
    let [first, second] = [part(memory, 0, K64), part(memory, K64, K64)];
    let [kept, given] = library.registry.lease_all(&[first, second]).unwrap().try_into().unwrap();
    library.space.map(iova(0, K4), first.start(), RW).unwrap();
    given.release().unwrap();
    assert!(fixture.source().free(second).is_ok());
    let refused = library.registry.lease(second).unwrap_err();
    assert!(matches!(refused, spapr_iommu::registry::RegisterError::Stale { .. }), "{refused}");
    library.space.unmap(iova(0, K4)).unwrap();
    kept.release().unwrap();
}

/// Permissions of the TCE, seen from the device: WRITE alone keeps it from reading on pseries, but
/// not on powernv.
pub(crate) fn map_for_writing_only_denies_reads_on_pseries_alone(fixture: &Fixture) {
    let raw = fixture.v2();
    let (source, target) = (raw.registered(K64), raw.registered(K64));
    fixture.fill(source, 0x77);
    fixture.fill(target, 0x11);
    assert_eq!(raw.map_for(crate::raw::WRITE, source.start(), 0, K4), Ok(0));
    assert_eq!(raw.map_for(crate::raw::WRITE, target.start(), K4, K4), Ok(0));
    let device = raw.device(0).unwrap();
    raw.dma(device, 0, K4, 64);
    let expected = if fixture.powernv() { 0x77 } else { 0 };
    assert_eq!(fixture.byte(target, 0), expected);
    raw.close_devices();
    drop(raw);

    // The library passes the permission on; `Permission::Write` documents its effect by platform.
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0, K4), memory.start(), Permission::Write).unwrap();
    fixture.on_model(|model| {
        let seen = model.tables(model.containers()[0])[0].entries[0].permission;
        assert_eq!(seen, if fixture.powernv() { RW } else { Permission::Write });
    });
    library.space.unmap(iova(0, K4)).unwrap();
}
