//! REGISTER_MEMORY.

use crate::fixture::{Fixture, K4, K64, at, part};
use spapr_iommu::addr::{UserAddr, UserRange};
use spapr_iommu::host::Protection;
use spapr_iommu::host::{Call, Errno, MemlockError};
use spapr_iommu::model::{MemoryKind, Violation};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::RegisterError;
use spapr_iommu::uapi::spapr;
use spapr_iommu_tests::by_address::ByAddress;

/// Returns the library's error for a range.
fn refused(fixture: &Fixture, range: UserRange) -> RegisterError {
    let library = fixture.library();
    library.calls();
    let refused = library.registry.lease(range).unwrap_err();
    assert!(library.calls().is_empty(), "the kernel was asked");
    refused
}

pub(crate) fn register_with_a_short_argument_or_any_flag_is_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = fixture.memory(K64);
    let good = spapr::RegisterMemory { argsz: 24, flags: 0, vaddr: memory.start().0, size: K64 };
    let bad = [
        spapr::RegisterMemory { argsz: 23, ..good },
        spapr::RegisterMemory { argsz: 0, ..good },
        spapr::RegisterMemory { flags: 1, ..good },
    ];
    for bad in bad {
        assert_eq!(raw.call(Call::RegisterMemory(bad)), Err(Errno::EINVAL), "{bad:?}");
        assert_eq!(raw.call(Call::UnregisterMemory(bad)), Err(Errno::EINVAL), "{bad:?}, in UNREGISTER too");
    }
    assert_eq!((fixture.locked(), raw.map(memory.start(), 0, K4)), (0, Err(Errno::EPERM)));
    drop(raw);

    // Structures are built in one place, as the kernel expects them.
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    let sent = fixture.kernel.take();
    let wanted = Call::RegisterMemory(spapr::RegisterMemory { vaddr: memory.start().0, ..good });
    assert!(sent.iter().any(|record| record.call == wanted), "{sent:?}");
}

/// Host pages, whatever the IOMMU page size.
pub(crate) fn register_of_parts_of_host_pages_is_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = fixture.memory(2 * K64);
    let (start, half) = (memory.start().0, fixture.page() / 2);
    for (vaddr, size) in [(start + half, K64), (start, half), (start + half, half), (start + 1, 1)] {
        assert_eq!(raw.register_at(vaddr, size), Err(Errno::EINVAL), "{vaddr:#x} {size:#x}");
    }
    assert_eq!(raw.register_at(start + fixture.page(), fixture.page()), Ok(0));
    drop(raw);
    let asked = part(memory, half, K64);
    assert!(matches!(refused(fixture, asked), RegisterError::Misaligned { .. }));
}

/// The last page of the address space is out of range as well.
pub(crate) fn register_that_wraps_or_ends_at_2_64_is_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    for (vaddr, size) in [(u64::MAX - (K64 - 1), K64), (u64::MAX - (K64 - 1), 2 * K64), (K64, u64::MAX - (K64 - 1))] {
        assert_eq!(raw.register_at(vaddr, size), Err(Errno::EINVAL), "{vaddr:#x} {size:#x}");
    }
    drop(raw);
    // Such a range cannot be built.
    assert!(UserRange::new(UserAddr(u64::MAX - (K64 - 1)), K64 + 1).is_err());
    assert!(UserRange::new(UserAddr(u64::MAX - (K64 - 1)), K64).is_err());
}

/// Not counted either: one UNREGISTER removes it.
pub(crate) fn register_twice_in_a_container_is_ebusy(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let (result, cost) = fixture.cost(|| raw.register(memory));
    assert_eq!((result, cost), (Err(Errno::EBUSY), 0));
    raw.gives_back(memory);
    assert_eq!(raw.unregister(memory), Err(Errno::ENOENT));
    drop(raw);

    // Leases count.
    let library = fixture.library();
    let (memory, first) = library.leased(K64);
    let second = library.registry.lease(memory).unwrap();
    first.release().unwrap();
    assert_eq!(library.registry.regions().len(), 1);
    second.release().unwrap();
    assert!(library.registry.regions().is_empty());
}

/// Regions belong to the process: pinned and charged once.
pub(crate) fn register_in_a_second_container_costs_nothing(fixture: &Fixture) {
    let (one, two) = (fixture.v2(), fixture.container(spapr::TCE_V2_IOMMU, &[1]));
    let memory = one.registered(K64);
    let (result, cost) = fixture.cost(|| two.register(memory));
    assert_eq!((result, cost), (Ok(0), 0));
    assert_eq!(two.map(memory.start(), 0, K4), Ok(0), "and enables it");
    assert_eq!(two.unmap(0, K4), Ok(0));
    let (result, cost) = fixture.cost(|| one.unregister(memory));
    assert_eq!((result, cost), (Ok(0), 0), "the other still holds it");
    two.gives_back(memory);
    drop((one, two));

    let library = fixture.library();
    library.space.attach(fixture.groups[1].0).unwrap();
    let before = fixture.locked();
    let (memory, _lease) = library.leased(K64);
    library.space.map(crate::fixture::iova(0, K4), memory.start(), Permission::ReadWrite).unwrap();
    let tables = 2 * crate::map::default_table(fixture);
    assert_eq!(fixture.locked() - before, K64.cast_signed() + tables, "memory once, a table in each container");
    library.space.unmap(crate::fixture::iova(0, K4)).unwrap();
}

/// The charge comes first: no page is pinned.
pub(crate) fn register_over_the_limit_is_enomem(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = fixture.memory(4 * K64);
    let limit = fixture.limit(3 * K64);
    let (result, cost) = fixture.cost(|| raw.register(memory));
    assert_eq!((result, cost), (Err(Errno::ENOMEM), 0));
    assert_eq!(raw.register(part(memory, 0, 3 * K64)), Ok(0), "up to the limit");
    drop(limit);
    drop(raw);

    let library = fixture.library();
    library.calls();
    let limit = fixture.limit(3 * K64);
    let refused = library.registry.lease(memory).unwrap_err();
    drop(limit);
    let RegisterError::Memlock(MemlockError::OverLimit { needed, missing, .. }) = refused else { panic!("{refused}") };
    assert_eq!((needed, missing, library.calls().len()), (4 * K64, K64, 0));
}

/// The registered bytes count nevertheless.
pub(crate) fn registered_memory_is_counted_as_locked_even_without_a_limit(fixture: &Fixture) {
    let raw = fixture.v2();
    let (memory, cost) = fixture.cost(|| raw.registered(16 * K64));
    assert_eq!(cost, (16 * K64).cast_signed());
    raw.gives_back(memory);
    drop(raw);
    let library = fixture.library();
    let ((_, lease), cost) = fixture.cost(|| library.leased(16 * K64));
    assert_eq!(cost, (16 * K64).cast_signed());
    lease.release().unwrap();
}

/// The kernel tries to allocate an array without an entry, and warns.
pub(crate) fn register_of_no_bytes_is_enomem_and_warns(fixture: &Fixture) {
    fixture.scars(|| {
        let raw = fixture.v2();
        assert_eq!(raw.register_at(fixture.memory(K64).start().0, 0), Err(Errno::ENOMEM));
        fixture.on_model(|model| assert_eq!(model.violations(), [Violation::EmptyRegister]));
    });
    assert!(UserRange::new(UserAddr(K64), 0).is_err());
    fixture.library().registry.lease_all(&[]).unwrap();
}

/// The array for its pages cannot be allocated. Nothing stays charged.
pub(crate) fn register_of_absurdly_much_is_enomem(fixture: &Fixture) {
    let raw = fixture.v2();
    let (result, cost) = fixture.cost(|| raw.register_at(K64, 1 << 60));
    assert_eq!((result, cost), (Err(Errno::ENOMEM), 0));
    drop(raw);
    // The library checks the backing first.
    let asked = UserRange::new(UserAddr(1 << 50), 1 << 60).unwrap();
    assert!(matches!(refused(fixture, asked), RegisterError::Hole { .. }));
}

/// What cannot be pinned for writing: a hole, PROT_NONE, read-only memory.
pub(crate) fn register_of_what_cannot_be_written_is_efault(fixture: &Fixture) {
    let raw = fixture.v2();
    let hole = fixture.memory(K64);
    let none = fixture.memory(K64);
    fixture.source().protect(none, Protection::None).unwrap();
    let read = fixture.memory(K64);
    fixture.source().protect(read, Protection::Read).unwrap();
    fixture.free(hole);
    for memory in [hole, none, read] {
        let (result, cost) = fixture.cost(|| raw.register(memory));
        assert_eq!((result, cost), (Err(Errno::EFAULT), 0), "{memory}");
    }
    assert_eq!(raw.map(hole.start(), 0, K4), Err(Errno::EPERM), "it does not enable");
    drop(raw);
    assert!(matches!(refused(fixture, hole), RegisterError::Hole { .. }));
    for memory in [none, read] {
        assert!(matches!(refused(fixture, memory), RegisterError::NotPinnable { part, .. } if part == memory));
    }
}

/// A bad page after good ones gives a number instead of an error: how many pages were pinned. None
/// of them stays pinned.
pub(crate) fn register_with_a_hole_gives_the_number_of_pages_before_it(fixture: &Fixture) {
    let page = fixture.page();
    let raw = fixture.v2();
    for pages in [1, 5, 80, 127] {
        let memory = fixture.memory(128 * page);
        fixture.free(part(memory, pages * page, page));
        let (result, cost) = fixture.cost(|| raw.register(memory));
        assert_eq!((result, cost), (Ok(pages as i32), 0));
        assert_eq!(raw.unregister(memory), Err(Errno::ENOENT), "nothing is registered");
        assert_eq!(raw.map(memory.start(), 0, K4), Err(Errno::EPERM), "nor enabled");
    }
    drop(raw);
    let memory = fixture.memory(8 * K64);
    fixture.free(part(memory, 5 * K64, K64));
    let RegisterError::Hole { hole, .. } = refused(fixture, memory) else { panic!("no hole") };
    assert_eq!(hole, part(memory, 5 * K64, K64));
}

/// Pages are pinned in chunks of 2 Mi, and the count starts again with each: a bad first page of a
/// chunk is EFAULT.
pub(crate) fn register_counts_pages_within_a_chunk_of_2_mi(fixture: &Fixture) {
    let page = fixture.page();
    let (start, chunk) = (1 << 44, page << 21);
    let whole = UserRange::new(UserAddr(start), 2 * chunk).unwrap();
    fixture.on_model(|model| {
        for (bad, expected) in [(0, Err(Errno::EFAULT)), (1, Ok(1)), (7, Ok(7))] {
            model.declare(whole, MemoryKind::Ordinary).unwrap();
            let hole = part(whole, chunk + bad * page, page);
            model.declare(hole, MemoryKind::Hole).unwrap();
            assert_eq!(fixture.v2().register(whole), expected);
            let library = fixture.library();
            assert!(
                matches!(library.registry.lease(whole), Err(RegisterError::Hole { hole: named, .. }) if named == hole)
            );
        }
        model.declare(whole, MemoryKind::Hole).unwrap();
    });
}

/// Memory of a device, mapped into the process.
pub(crate) fn register_of_device_memory_is_efault(fixture: &Fixture) {
    let memory = UserRange::new(UserAddr(1 << 44), K64).unwrap();
    fixture.on_model(|model| model.declare(memory, MemoryKind::Device).unwrap());
    assert_eq!(fixture.v2().register(memory), Err(Errno::EFAULT));
    assert!(matches!(refused(fixture, memory), RegisterError::NotPinnable { .. }));
}

/// With any region of the process; but pages are pinned first, so a hole is reported before the
/// overlap.
pub(crate) fn register_that_overlaps_is_einval_once_the_pages_are_pinned(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = fixture.memory(4 * K64);
    assert_eq!(raw.register(part(memory, 0, 2 * K64)), Ok(0));
    for (offset, len) in [(0, K64), (K64, K64), (K64, 2 * K64), (0, 3 * K64)] {
        let (result, cost) = fixture.cost(|| raw.register(part(memory, offset, len)));
        assert_eq!((result, cost), (Err(Errno::EINVAL), 0), "{offset:#x} {len:#x}");
    }
    fixture.free(part(memory, 3 * K64, K64));
    let pages = i32::try_from(2 * K64 / fixture.page()).unwrap();
    assert_eq!(raw.register(part(memory, K64, 3 * K64)), Ok(pages));
    assert_eq!(raw.register(part(memory, 2 * K64, K64)), Ok(0), "a neighbour is not an overlap");
    drop(raw);

    // Leases may overlap freely: what is registered already is not registered again.
    let library = fixture.library();
    let _one = library.registry.lease(part(memory, 0, 2 * K64)).unwrap();
    let (lease, cost) = fixture.cost(|| library.registry.lease(part(memory, K64, 2 * K64)).unwrap());
    assert_eq!(cost, K64.cast_signed());
    drop(lease);
}

/// Only closing the container removes it.
pub(crate) fn register_enables_the_container_for_good(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = fixture.memory(K64);
    assert_eq!(raw.map(memory.start(), K4, K4), Err(Errno::EPERM));
    assert_eq!((raw.register(memory), raw.unregister(memory)), (Ok(0), Ok(0)));
    assert_eq!(raw.map(memory.start(), K4, K4), Err(Errno::EINVAL), "the memory is missing, not the right");
    assert_eq!(raw.unmap(K4, K4), Ok(0));
    drop(raw);

    let library = fixture.library();
    let (memory, lease) = library.leased(K64);
    lease.release().unwrap();
    let asked = library.space.map(crate::fixture::iova(K4, K4), memory.start(), Permission::Read).unwrap_err();
    assert!(matches!(asked, spapr_iommu::space::MapError::Memory(_)), "{asked}");
}

/// It creates none either: only the memory is charged.
pub(crate) fn register_needs_no_window(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.remove(0), Ok(0));
    let (memory, cost) = fixture.cost(|| raw.registered(K64));
    assert_eq!(cost, K64.cast_signed());
    assert_eq!(raw.map(at(memory, 0), 0, K4), Err(Errno::ENXIO));
    raw.gives_back(memory);
    drop(raw);
    let library = fixture.library();
    library.space.drop_default_window().unwrap();
    let ((_, _lease), cost) = fixture.cost(|| library.leased(K64));
    assert_eq!(cost, K64.cast_signed());
}

/// The container knows its process from the first call that got this far: UNREGISTER says EPERM
/// before that.
pub(crate) fn register_that_fails_still_binds_the_process(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = fixture.memory(K64);
    assert_eq!(raw.unregister(memory), Err(Errno::EPERM));
    assert_eq!(raw.register_at(1, 1), Err(Errno::EINVAL));
    assert_eq!(raw.unregister(memory), Err(Errno::ENOENT));
    drop(raw);
    // Containers of the library stay in its process: the files are closed on exec.
    fixture.library();
}
