//! MAP_DMA: what the kernel checks before the first page, and in which order.

use crate::fixture::{Fixture, HIGH, K4, K64, at, iova};
use crate::raw::{READ, WRITE};
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::{Call, Errno, MemlockError};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::RegisterError;
use spapr_iommu::space::{MapError, WindowError};
use spapr_iommu::uapi::vfio;
use spapr_iommu::window::{PlanError, WindowRequest};
use spapr_iommu_tests::by_address;
use spapr_iommu_tests::by_address::ByAddress;

const RW: Permission = Permission::ReadWrite;

/// Locked bytes of the default window's table.
pub(crate) fn default_table(fixture: &Fixture) -> i64 {
    if fixture.powernv() { 8 << 20 } else { 2 << 20 }
}

/// The kernel does not even look at the arguments.
pub(crate) fn map_before_any_register_is_eperm(fixture: &Fixture) {
    let raw = fixture.v2();
    let nothing = vfio::DmaMap::default();
    assert_eq!(raw.call(Call::MapDma(nothing)), Err(Errno::EPERM));
    assert_eq!(raw.map(fixture.memory(K64).start(), 0, K4), Err(Errno::EPERM));
    drop(raw);

    // The library registers first, with whichever container maps.
    let library = fixture.library_without_groups();
    let (memory, _lease) = library.leased(K64);
    assert!(library.calls().is_empty(), "there is no container to register with");
    library.space.attach(fixture.groups[0].0).unwrap();
    library.space.map(iova(0, K4), memory.start(), RW).unwrap();
    library.space.unmap(iova(0, K4)).unwrap();
}

pub(crate) fn map_with_a_short_argument_or_strange_flags_is_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let good = vfio::DmaMap { argsz: 32, flags: READ | WRITE, vaddr: memory.start().0, iova: 0, size: K4 };
    for bad in [
        vfio::DmaMap { argsz: 31, ..good },
        vfio::DmaMap { argsz: 0, ..good },
        vfio::DmaMap { flags: READ | 4, ..good },
        vfio::DmaMap { flags: 1 << 31, ..good },
    ] {
        let (result, cost) = fixture.cost(|| raw.call(Call::MapDma(bad)));
        assert_eq!((result, cost), (Err(Errno::EINVAL), 0), "{bad:?}, and no window is created");
    }
    raw.gives_back(memory);
    // The library cannot express it: structures are built in one place, and permissions are a type.
    assert_eq!([Permission::Read, Permission::Write, RW].map(Permission::bits), [1, 2, 3]);
}

/// The window is charged although nothing is mapped.
pub(crate) fn map_that_is_refused_still_creates_the_default_window(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let (result, cost) = fixture.cost(|| raw.map(memory.start(), 0, 1));
    assert_eq!((result, cost), (Err(Errno::EINVAL), default_table(fixture)));
    drop(raw);

    // The library checks before it calls: the window is still pending.
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.calls();
    let (refused, cost) = fixture.cost(|| library.space.map(iova(0, 1), memory.start(), RW));
    assert!(matches!(refused, Err(MapError::Misaligned { .. })), "{refused:?}");
    assert_eq!((cost, library.calls().len()), (0, 0));
}

/// The failure is the default window's; one caused by the limit leaks nothing.
pub(crate) fn map_that_cannot_afford_the_default_window_is_enomem(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let room = default_table(fixture).cast_unsigned() - K64;
    let limit = fixture.limit(room);
    let (result, cost) = fixture.cost(|| raw.map(memory.start(), 0, K4));
    drop(limit);
    assert_eq!((result, cost), (Err(Errno::ENOMEM), 0));
    assert_eq!(raw.map(memory.start(), 0, K4), Ok(0), "the window is still to come");
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.calls();
    let limit = fixture.limit(room);
    let refused = library.space.map(iova(0, K4), memory.start(), RW).unwrap_err();
    drop(limit);
    let over_limit = |refusal: &PlanError| matches!(refusal, PlanError::Memlock(MemlockError::OverLimit { .. }));
    let (MapError::Window(WindowError::Refused(why)) | MapError::NoWindow { why, .. }) = &refused else {
        panic!("{refused}");
    };
    assert!(over_limit(why) && library.calls().is_empty(), "{refused}");
}

/// Whatever else is wrong.
pub(crate) fn map_outside_all_windows_is_enxio(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let end = fixture.default_window();
    for start in [end, end + 1, HIGH, 1 << 40, u64::MAX - 0xfff] {
        assert_eq!(raw.map(memory.start(), start, 1), Err(Errno::ENXIO), "{start:#x}");
    }
    raw.gives_back(memory);
    drop(raw);

    // The library creates the window, or says why it cannot.
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    let refused = library.space.map(iova(1 << 40, K64), memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::NoWindow { .. }), "{refused}");
    library.space.map(iova(HIGH, K64), memory.start(), RW).unwrap();
    library.space.unmap(iova(HIGH, K64)).unwrap();
}

pub(crate) fn map_of_parts_of_iommu_pages_is_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    for size in [1, 0x800, K4 + 1] {
        assert_eq!(raw.map(memory.start(), 0, size), Err(Errno::EINVAL), "{size:#x}");
    }
    for offset in [1, 0x800] {
        assert_eq!(raw.map(at(memory, offset), 0, K4), Err(Errno::EINVAL), "{offset:#x}");
    }
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    let refused = library.space.map(iova(0, 0x800), memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::Misaligned { page: PageShift::P4K, .. }), "{refused}");
    let refused = library.space.map(iova(0, K4), at(memory, 0x800), RW).unwrap_err();
    assert!(matches!(refused, MapError::UserMisaligned { page: PageShift::P4K, .. }), "{refused}");
}

/// A TCE without permission would map nothing.
pub(crate) fn map_without_a_permission_is_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.map_for(0, memory.start(), 0, K4), Err(Errno::EINVAL));
    raw.gives_back(memory);
    // There is no such `Permission`.
    assert_eq!(Permission::from_bits(0), None);
}

/// The kernel returns a C boolean: neither 0 nor an error number. (Trap: a positive result is a
/// failure.)
pub(crate) fn map_with_a_misaligned_iova_gives_1(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    for start in [1, 0x800, K4 + 0x800] {
        assert_eq!(raw.map(memory.start(), start, K4), Ok(1), "{start:#x}");
    }
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.calls();
    let refused = library.space.map(iova(0x800, K4), memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::Misaligned { .. }) && library.calls().is_empty(), "{refused}");
}

/// The first fault decides, and the first check is not the one a reader would expect.
pub(crate) fn map_checks_the_window_then_size_then_permission_then_iova(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let outside = fixture.default_window();
    let strange = fixture.memory(K64).start();
    // Everything is wrong; each line corrects one thing.
    assert_eq!(raw.map_for(4, strange, outside + 1, 1), Err(Errno::EINVAL), "flags");
    assert_eq!(raw.map_for(0, strange, outside + 1, 1), Err(Errno::ENXIO), "window");
    assert_eq!(raw.map_for(0, strange, K4 + 1, 1), Err(Errno::EINVAL), "size or right");
    assert_eq!(raw.map_for(0, strange, K4 + 1, K4), Err(Errno::EINVAL), "right");
    assert_eq!(raw.map_for(READ, strange, K4 + 1, K4), Ok(1), "bus address");
    assert_eq!(raw.map_for(READ, strange, K4, K4), Err(Errno::EINVAL), "memory");
    assert_eq!(raw.map_for(READ, memory.start(), K4, K4), Ok(0));
    assert_eq!(raw.unmap(K4, K4), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    // The library's order: range, window, page size, existing mappings, memory.
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    let map = |start, len, user| library.space.map(iova(start, len), user, RW);
    assert!(matches!(map(outside - K4, 2 * K4, strange), Err(MapError::NoWindow { .. })));
    assert!(matches!(map(K4 + 1, K4, at(memory, 1)), Err(MapError::Misaligned { .. })));
    assert!(matches!(map(K4, K4, at(memory, 1)), Err(MapError::UserMisaligned { .. })));
    assert!(matches!(map(K4, K4, strange), Err(MapError::Memory(_))));
}

/// The kernel checks a table by that table's page size: slot 0 first.
pub(crate) fn map_uses_the_page_of_the_window_that_holds_the_iova(fixture: &Fixture) {
    let shift = fixture.preset.page.shift();
    let raw = fixture.v2();
    let memory = raw.registered(2 * K64);
    let start = raw.create(shift.get(), 1 << 30, 1).unwrap();
    let large = shift.bytes();
    assert_eq!(raw.map(memory.start(), start, large), Ok(0));
    assert_eq!(raw.map(memory.start(), start + large / 2, large), Ok(1));
    assert_eq!(raw.map(memory.start(), start + large, large / 2), Err(Errno::EINVAL));
    assert_eq!(raw.map(at(memory, K4), K4, K4), Ok(0), "the default window has small pages");
    assert_eq!((raw.unmap(start, large), raw.unmap(K4, K4)), (Ok(0), Ok(0)));
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let window = library.space.create_window(&WindowRequest::bytes(1 << 30).page(shift)).unwrap();
    let (memory, _lease) = library.leased(2 * K64);
    let there = window.range.start().0;
    let refused = library.space.map(iova(there, large / 2), memory.start(), RW).unwrap_err();
    assert!(matches!(refused, MapError::Misaligned { page, .. } if page == shift), "{refused}");
    library.space.map(iova(there, large), memory.start(), RW).unwrap();
    library.space.unmap(iova(there, large)).unwrap();
}

/// Harmless except where POWER8 hangs, but recorded. (At addresses other than 0 POWER8 survives
/// it.)
pub(crate) fn map_and_unmap_of_no_bytes_return_0(fixture: &Fixture) {
    fixture.scars(|| {
        let raw = fixture.v2();
        let memory = raw.registered(K64);
        assert_eq!(raw.map(memory.start(), K4, 0), Ok(0));
        assert_eq!(raw.unmap(K4, 0), Ok(0));
        raw.gives_back(memory);
    });
    // Every range has at least a byte, so every call does too.
    assert!(spapr_iommu::addr::IovaRange::new(spapr_iommu::addr::Iova(K4), 0).is_err());
    let library = fixture.library();
    let (_, lease) = library.leased(K64);
    library.calls();
    library.space.map_all(&[], Default::default()).unwrap();
    assert!(library.calls().is_empty());
    drop(lease);
}

/// The errors of both calls that can pin memory name the request; checked here to show that they
/// reach the user.
pub(crate) fn no_positive_result_passes_for_success(fixture: &Fixture) {
    use spapr_iommu::host::calls::{self, Failure};
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let (bad, good) = (iova(0x800, K4), iova(0, K4));
    let failure = |result: Result<(), calls::CallError>| result.unwrap_err().failure;
    let map = by_address::map_dma(&*fixture.kernel, raw.fd, memory.start(), bad, RW);
    assert_eq!(failure(map), Failure::Positive(1));
    assert_eq!(failure(calls::unmap_dma(&*fixture.kernel, raw.fd, bad)), Failure::Positive(1));
    let holed = fixture.memory(4 * K64);
    fixture.free(crate::fixture::part(holed, 2 * K64, K64));
    let pages = i32::try_from(2 * K64 / fixture.page()).unwrap();
    assert_eq!(failure(by_address::register_memory(&*fixture.kernel, raw.fd, holed)), Failure::Positive(pages));
    by_address::map_dma(&*fixture.kernel, raw.fd, memory.start(), good, RW).unwrap();
    calls::unmap_dma(&*fixture.kernel, raw.fd, good).unwrap();
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    assert!(matches!(library.registry.lease(holed), Err(RegisterError::Hole { .. })));
}
