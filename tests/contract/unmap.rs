//! UNMAP_DMA.

use crate::fixture::{Fixture, HIGH, K4, K64, at, iova};
use crate::map::default_table;
use spapr_iommu::addr::Iova;
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::model::Violation;
use spapr_iommu::permission::Permission;
use spapr_iommu::space::UnmapError;
use spapr_iommu::uapi::vfio;
use std::time::{Duration, Instant};

const RW: Permission = Permission::ReadWrite;

pub(crate) fn unmap_before_any_register_is_eperm(fixture: &Fixture) {
    let raw = fixture.v2();
    assert_eq!(raw.call(Call::UnmapDma(vfio::DmaUnmap::default())), Err(Errno::EPERM));
    assert_eq!(raw.unmap(0, K4), Err(Errno::EPERM));
    drop(raw);

    // The library never unmaps what it did not map.
    let library = fixture.library();
    let asked = library.space.unmap(iova(0, K4));
    assert!(matches!(asked, Ok(0) | Err(UnmapError::NoWindow { .. })), "{asked:?}");
    assert!(!library.calls().contains(&"VFIO_IOMMU_UNMAP_DMA"));
}

/// There is no way to unmap everything, and no dirty bitmap.
pub(crate) fn unmap_with_a_short_argument_or_any_flag_is_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    raw.registered(K64);
    let good = vfio::DmaUnmap { argsz: 24, flags: 0, iova: 0, size: K4 };
    let bad = [
        vfio::DmaUnmap { argsz: 23, ..good },
        vfio::DmaUnmap { flags: 1, ..good },
        vfio::DmaUnmap { flags: 2, ..good },
        vfio::DmaUnmap { flags: 1 << 31, ..good },
    ];
    for bad in bad {
        let (result, cost) = fixture.cost(|| raw.call(Call::UnmapDma(bad)));
        assert_eq!((result, cost), (Err(Errno::EINVAL), 0), "{bad:?}, and no window is created");
    }
}

/// So can a call that removes something.
pub(crate) fn unmap_creates_the_default_window(fixture: &Fixture) {
    let raw = fixture.v2();
    raw.registered(K64);
    let (result, cost) = fixture.cost(|| raw.unmap(0, K4));
    assert_eq!((result, cost), (Ok(0), default_table(fixture)));
    drop(raw);

    // In the library the first map does, deliberately by an UNMAP: a failure is then known to be
    // the window's.
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.calls();
    let (_, cost) = fixture.cost(|| library.space.unmap(iova(0, K4)));
    assert_eq!((cost, library.calls().len()), (0, 0));
    library.space.map(iova(0, K4), memory.start(), RW).unwrap();
    assert_eq!(library.calls(), ["VFIO_IOMMU_UNMAP_DMA", "VFIO_IOMMU_MAP_DMA"]);
    library.space.unmap(iova(0, K4)).unwrap();
}

pub(crate) fn unmap_outside_all_windows_is_enxio(fixture: &Fixture) {
    let raw = fixture.v2();
    raw.registered(K64);
    for start in [fixture.default_window(), HIGH, 1 << 40] {
        assert_eq!(raw.unmap(start, 1), Err(Errno::ENXIO), "{start:#x}");
    }
    drop(raw);

    let library = fixture.library();
    let refused = library.space.unmap(iova(1 << 40, K4)).unwrap_err();
    assert!(matches!(refused, UnmapError::NoWindow { .. }), "{refused}");
}

pub(crate) fn unmap_of_parts_of_iommu_pages_is_einval(fixture: &Fixture) {
    let raw = fixture.v2();
    raw.registered(K64);
    for size in [1, 0x800, K4 + 1] {
        assert_eq!(raw.unmap(0, size), Err(Errno::EINVAL), "{size:#x}");
        assert_eq!(raw.unmap(1, size), Err(Errno::EINVAL), "size {size:#x} comes before the bus address");
    }
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0, K4), memory.start(), RW).unwrap();
    let refused = library.space.unmap(iova(0, 0x800)).unwrap_err();
    assert!(matches!(refused, UnmapError::Misaligned { .. }), "{refused}");
    library.space.unmap(iova(0, K4)).unwrap();
}

/// As with MAP: a C boolean, and nothing is unmapped.
pub(crate) fn unmap_with_a_misaligned_iova_gives_1(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.map(memory.start(), 0, 2 * K4), Ok(0));
    assert_eq!(raw.unmap(0x800, K4), Ok(1));
    if let Some(entries) = raw.entries(0) {
        assert_eq!(entries, [(0, 2 * K4, memory.start().0)]);
    }
    assert_eq!(raw.unmap(0, 2 * K4), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0, 2 * K4), memory.start(), RW).unwrap();
    let refused = library.space.unmap(iova(0x800, K4)).unwrap_err();
    assert!(matches!(refused, UnmapError::Misaligned { .. }), "{refused}");
    assert_eq!(library.space.unmap(iova(0, 2 * K4)), Ok(2 * K4));
}

/// Part of a mapping, several at once, holes between them.
pub(crate) fn unmap_needs_no_match_with_what_was_mapped(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.map(memory.start(), 0, 8 * K4), Ok(0));
    assert_eq!(raw.map(at(memory, 8 * K4), 0x10_0000, 8 * K4), Ok(0));
    assert_eq!(raw.unmap(3 * K4, K4), Ok(0));
    if let Some(entries) = raw.entries(0) {
        let start = memory.start().0;
        let rest = [(0, 3 * K4, start), (4 * K4, 4 * K4, start + 4 * K4), (0x10_0000, 8 * K4, start + 8 * K4)];
        assert_eq!(entries, rest);
    }
    assert_eq!(raw.unmap(2 * K4, 0x20_0000), Ok(0));
    assert_eq!(raw.unmap(0, 2 * K4), Ok(0));
    raw.gives_back(memory);
    drop(raw);

    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0, 8 * K4), memory.start(), RW).unwrap();
    assert_eq!(library.space.unmap(iova(3 * K4, K4)), Ok(K4));
    assert_eq!(library.space.unmap(iova(0, 0x20_0000)), Ok(7 * K4));
}

/// Nothing shows whether anything was mapped: no error, no byte count.
pub(crate) fn unmap_of_nothing_is_0_and_counts_no_bytes(fixture: &Fixture) {
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    let args = vfio::DmaUnmap { argsz: 24, flags: 0, iova: 0x20_0000, size: 4 * K4 };
    assert_eq!(raw.answer(Call::UnmapDma(args)), Ok((0, Call::UnmapDma(args))));
    assert_eq!(raw.map(memory.start(), 0x20_0000, K4), Ok(0));
    assert_eq!(raw.answer(Call::UnmapDma(args)), Ok((0, Call::UnmapDma(args))), "one page was mapped");
    raw.gives_back(memory);
    drop(raw);

    // The library knows.
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(0x20_0000, K4), memory.start(), RW).unwrap();
    assert_eq!(library.space.unmap(iova(0x20_0000, 4 * K4)), Ok(K4));
    assert_eq!(library.space.unmap(iova(0x20_0000, 4 * K4)), Ok(0));
}

/// Checks what the library does about each kind of UNMAP past the end.
fn refused_past_the_end(fixture: &Fixture) {
    let end = fixture.default_window();
    let library = fixture.library();
    let (memory, _lease) = library.leased(K64);
    library.space.map(iova(end - K4, K4), memory.start(), RW).unwrap();
    library.calls();
    let refused = library.space.unmap(iova(end - K4, 2 * K4)).unwrap_err();
    assert!(matches!(refused, UnmapError::NoWindow { .. }) && library.calls().is_empty(), "{refused}");
    assert_eq!(library.space.unmap(iova(end - K4, K4)), Ok(K4));
}

/// The hypervisor refuses what is outside, and the kernel goes on.
pub(crate) fn unmap_past_the_end_clears_what_is_inside_on_pseries(fixture: &Fixture) {
    let end = fixture.default_window();
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.map(memory.start(), end - K4, K4), Ok(0));
    assert_eq!(raw.unmap(end - K4, 2 * K4), Ok(0));
    raw.gives_back(memory);
    drop(raw);
    refused_past_the_end(fixture);
}

/// Zeros are written where no table is.
pub(crate) fn unmap_past_the_end_writes_past_the_table_on_powernv(fixture: &Fixture) {
    let end = fixture.default_window();
    fixture.scars(|| {
        let raw = fixture.v2();
        let memory = raw.registered(K64);
        assert_eq!(raw.map(memory.start(), end - K4, K4), Ok(0));
        assert_eq!(raw.unmap(end - K4, 2 * K4), Ok(0));
        raw.gives_back(memory);
        let (start, size, window) = (Iova(end - K4), 2 * K4, iova(0, end));
        let expected = Violation::UnmapPastWindow { start, size, window };
        fixture.on_model(|model| assert_eq!(model.violations(), [expected]));
    });
    refused_past_the_end(fixture);
}

/// From 6.12.112 and 7.2.8 on: even the part inside stays.
pub(crate) fn unmap_past_the_end_gives_1_and_clears_nothing_since_7_2_8(fixture: &Fixture) {
    let end = fixture.default_window();
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    assert_eq!(raw.map(memory.start(), end - K4, K4), Ok(0));
    for size in [2 * K4, 1 << 40, !0xfff] {
        assert_eq!(raw.unmap(end - K4, size), Ok(1), "{size:#x}");
    }
    // It is still mapped: the same memory in another place does not replace it.
    if let Some(entries) = raw.entries(0) {
        assert_eq!(entries, [(end - K4, K4, memory.start().0)]);
    }
    assert_eq!(raw.unmap(end - K4, K4), Ok(0));
    raw.gives_back(memory);
    drop(raw);
    refused_past_the_end(fixture);
}

/// A table of several levels has leaves only where something was mapped: 2^28 TCEs take no time.
/// (On POWER8 each page is still invalidated, which takes minutes.)
pub(crate) fn unmap_skips_leaves_that_are_not_there(fixture: &Fixture) {
    const WHOLE: u64 = 1 << 44;
    let raw = fixture.v2();
    let memory = raw.registered(K64);
    // The host's page, of ordinary memory.
    let shift = fixture.preset.page.shift();
    let size = WHOLE >> (16 - shift.get());
    let levels = if crate::rule::small_pages(&fixture.preset) { 3 } else { 2 };
    let start = raw.create(shift.get(), size, levels).unwrap();
    assert_eq!(raw.map(memory.start(), start + size / 2, K64), Ok(0));
    let began = Instant::now();
    assert_eq!(raw.unmap(start, size), Ok(0));
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    raw.gives_back(memory);
    drop(raw);

    // The library uses several levels where its own estimate says they help.
    let library = fixture.library();
    let request = spapr_iommu::window::WindowRequest::bytes(size).page(shift);
    let window = library.space.create_window(&request).unwrap();
    assert!(window.levels > 1, "{window:?}");
}
