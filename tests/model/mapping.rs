//! MAP and UNMAP.

use super::*;
use spapr_iommu::addr::{Iova, IovaRange, PageShift, UserAddr};
use spapr_iommu::host::{Call, Errno, Memory};
use spapr_iommu::model::{MemoryKind, Violation};
use spapr_iommu::permission::Permission;
use spapr_iommu::uapi::vfio;
use std::time::{Duration, Instant};

fn map_with(b: &Fixture, user: UserAddr, iova: u64, size: u64, flags: u32) -> Outcome {
    b.call(Call::MapDma(vfio::DmaMap { argsz: 32, flags, vaddr: user.0, iova, size }))
}

#[test]
fn a_misaligned_iova_gives_1_and_the_rest_einval_in_the_kernels_order() {
    for preset in ["powernv9", "pseries", "powernv9-7.2"] {
        let b = fixture(preset);
        let memory = b.registered(0x20000);
        assert_eq!(b.map(memory.start(), 1 << 40, 1), Err(Errno::ENXIO), "no window comes before alignment");
        assert_eq!(b.map(memory.start(), 1, 0x800), Err(Errno::EINVAL), "size comes before the iova");
        assert_eq!(b.map(at(memory, 1), 1, 0x1000), Err(Errno::EINVAL), "so does the user address");
        assert_eq!(map_with(&b, memory.start(), 1, 0x1000, 0), Err(Errno::EINVAL), "and the permission");
        assert_eq!(b.map(memory.start(), 1, 0x1000), Ok(1));
        assert_eq!(b.unmap(1 << 40, 1), Err(Errno::ENXIO));
        assert_eq!(b.unmap(1, 1), Err(Errno::EINVAL));
        assert_eq!(b.unmap(1, 0x1000), Ok(1));
        assert_eq!((b.entries(0), b.mapped(memory)), (vec![], 0));
    }
}

#[test]
fn only_registered_memory_is_mapped() {
    let b = fixture("powernv9");
    let memory = b.memory(0x30000);
    assert_eq!(b.register(user(memory.start().0, 0x10000)), OK);
    assert_eq!(b.map(at(memory, 0x10000), 0, 0x1000), Err(Errno::EINVAL));
    assert_eq!(b.map(at(memory, 0xf000), 0, 0x2000), Err(Errno::EINVAL));
    assert_eq!(b.register(user(memory.start().0 + 0x10000, 0x10000)), OK);
    assert_eq!(b.map(at(memory, 0xf000), 0, 0x2000), OK, "each page lies in one of two neighbours");
    assert_eq!(b.entries(0), [(0, 0x2000, memory.start().0 + 0xf000)]);
    assert_eq!(b.map(UserAddr(u64::MAX - 0xfff), 0, 0x1000), Err(Errno::EINVAL));
}

#[test]
fn a_page_over_two_regions_is_einval() {
    let b = fixture("pseries-4k");
    let memory = b.model.allocate(2 << 20, PageShift::P2M).unwrap();
    let start = memory.start().0;
    assert_eq!(b.register(user(start, 0x18_0000)), OK);
    assert_eq!(b.register(user(start + 0x18_0000, 0x8_0000)), OK);
    let window = b.create(21, 1 << 30, 1).unwrap();
    assert_eq!(b.map(memory.start(), window, 2 << 20), Err(Errno::EINVAL));
}

#[test]
fn ordinary_memory_of_a_4k_kernel_does_not_fit_a_64k_window() {
    let b = fixture("powernv9-4k");
    let memory = b.registered(0x10000);
    let window = b.create(16, 1 << 30, 1).unwrap();
    assert_eq!(b.map(memory.start(), window, 0x10000), Err(Errno::EINVAL));
    let b = fixture("pseries-4k");
    let memory = b.model.allocate(2 << 20, PageShift::P2M).unwrap();
    assert_eq!(b.register(memory), OK);
    let window = b.create(16, 1 << 30, 1).unwrap();
    assert_eq!(b.map(at(memory, 0x10000), window, 0x10000), OK);
}

#[test]
fn small_pages_after_huge_ones_are_eperm_and_transparent_huge_ones_are_fine() {
    for (kind, expected, left) in [
        (MemoryKind::Ordinary, Err(Errno::EPERM), vec![]),
        (MemoryKind::TransparentHuge, OK, vec![(HIGH, 4 << 20, 1 << 40)]),
    ] {
        let b = fixture("pseries-4k");
        b.model.declare(user(1 << 40, 2 << 20), MemoryKind::Huge(PageShift::P2M)).unwrap();
        b.model.declare(user((1 << 40) + (2 << 20), 2 << 20), kind).unwrap();
        let memory = user(1 << 40, 4 << 20);
        assert_eq!(b.register(memory), OK);
        assert_eq!(b.create(16, 1 << 30, 1), Ok(HIGH));
        assert_eq!(b.map(memory.start(), HIGH, 2 << 20), OK);
        assert_eq!(b.map(memory.start(), HIGH, 4 << 20), expected);
        assert_eq!(b.entries(1), left, "a failed MAP takes what it covered so far with it");
    }
}

#[test]
fn a_page_belongs_to_the_memory_it_starts_in() {
    let b = fixture("pseries-4k");
    let base = 1 << 40;
    b.model.declare(user(base, 2 << 20), MemoryKind::Huge(PageShift::P2M)).unwrap();
    b.model.declare(user(base + (2 << 20), 0x5000), MemoryKind::TransparentHuge).unwrap();
    b.model.declare(user(base + (2 << 20) + 0x5000, 0xb000), MemoryKind::TransparentHuge).unwrap();
    let memory = user(base, (2 << 20) + 0x10000);
    assert_eq!(b.register(memory), OK);
    assert_eq!(b.create(16, 1 << 30, 1), Ok(HIGH));
    assert_eq!(b.map(memory.start(), HIGH, memory.len()), OK);
    assert_eq!(b.mapped(memory), 33);
}

#[test]
fn overwriting_is_silent() {
    let b = fixture("powernv9");
    let (one, two) = (b.registered(0x10000), b.registered(0x10000));
    assert_eq!(b.map(one.start(), 0, 0x10000), OK);
    assert_eq!(b.map(two.start(), 0x4000, 0x4000), OK);
    assert_eq!((b.mapped(one), b.mapped(two), b.violations()), (12, 4, vec![]));
}

#[test]
fn a_failed_map_destroys_what_it_covered_and_keeps_the_rest() {
    for preset in ["powernv9", "pseries"] {
        let b = fixture(preset);
        let old = b.registered(0x10000);
        assert_eq!(b.map(old.start(), 0, 0x8000), OK);
        let new = b.memory(0x20000);
        b.model.free(user(new.start().0 + 0x10000, 0x10000)).unwrap();
        assert_eq!(b.register(user(new.start().0, 0x10000)), OK);
        // Four registered pages, then four that are not.
        assert_eq!(b.map(at(new, 0xc000), 0, 0x8000), Err(Errno::EINVAL));
        assert_eq!(b.entries(0), [(0x4000, 0x4000, old.start().0 + 0x4000)], "{preset}");
        assert_eq!(b.model.regions().iter().map(|region| region.mapped).collect::<Vec<_>>(), [0, 4]);
        assert_eq!(b.violations(), []);
    }
}

#[test]
fn unmap_needs_no_match() {
    let b = fixture("powernv9");
    let memory = b.registered(0x10000);
    assert_eq!(b.unmap(0, 0x10000), OK);
    assert_eq!(b.map(memory.start(), 0, 0x10000), OK);
    assert_eq!(b.unmap(0x3000, 0x1000), OK);
    assert_eq!(b.unmap(0x8000, 0x100000), OK);
    let start = memory.start().0;
    assert_eq!(b.entries(0), [(0, 0x3000, start), (0x4000, 0x4000, start + 0x4000)]);
    assert_eq!(b.mapped(memory), 7);
}

#[test]
fn write_brings_read_on_powernv_only() {
    for (preset, expected) in [("powernv9", Permission::ReadWrite), ("pseries", Permission::Write)] {
        let b = fixture(preset);
        let memory = b.registered(0x10000);
        assert_eq!(map_with(&b, memory.start(), 0, 0x1000, vfio::DMA_MAP_FLAG_WRITE), OK);
        assert_eq!(map_with(&b, memory.start(), 0x1000, 0x1000, vfio::DMA_MAP_FLAG_READ), OK);
        let entries = b.model.tables(b.container)[0].entries.clone();
        assert_eq!(entries.iter().map(|e| e.permission).collect::<Vec<_>>(), [expected, Permission::Read]);
    }
}

#[test]
fn empty_calls_return_0_and_are_recorded() {
    let b = fixture("powernv8");
    b.registered(0x10000);
    assert_eq!(b.map(UserAddr(0), 0x1000, 0), OK);
    assert_eq!(b.unmap(0x2000, 0), OK);
    let recorded = [Violation::EmptyMap { start: Iova(0x1000) }, Violation::EmptyUnmap { start: Iova(0x2000) }];
    assert_eq!(b.violations(), recorded);
}

const END: u64 = 2 << 30;

fn window(len: u64) -> IovaRange {
    IovaRange::new(Iova(0), len).unwrap()
}

#[test]
fn a_map_past_the_window_returns_0_on_powernv_and_applies_nothing_here() {
    let b = fixture("powernv9-7.2");
    let memory = b.registered(0x10000);
    assert_eq!(b.map(memory.start(), END - 0x1000, 0x2000), OK);
    let (start, size) = (Iova(END - 0x1000), 0x2000);
    assert_eq!(b.violations(), [Violation::MapPastWindow { start, size, window: window(END), fatal: false }]);
    assert_eq!((b.entries(0), b.mapped(memory)), (vec![], 0));
}

#[test]
fn a_map_that_fails_before_the_windows_end_never_gets_there() {
    let b = fixture("powernv9");
    let memory = b.registered(0x10000);
    assert_eq!(b.map(at(memory, 0xf000), END - 0x1000, 0x4000), Err(Errno::EINVAL));
    assert_eq!(b.violations(), []);
}

#[test]
fn a_map_past_the_window_kills_pseries_or_leaks_a_count() {
    let b = fixture("pseries");
    let memory = b.registered(0x10000);
    let end = 1 << 30;
    assert_eq!(b.map(memory.start(), end - 0x1000, 0x2000), Err(Errno::EINTR));
    let (start, size) = (Iova(end - 0x1000), 0x2000);
    assert_eq!(b.violations(), [Violation::MapPastWindow { start, size, window: window(end), fatal: true }]);

    let b = fixture("pseries");
    let memory = b.registered(0x10000);
    assert_eq!(b.create(12, 0x4000, 1), Ok(HIGH));
    assert_eq!(b.map(memory.start(), HIGH + 0x2000, 0x3000), Err(Errno::EINTR));
    assert_eq!((b.entries(1), b.mapped(memory)), (vec![], 1));
    assert_eq!(b.violations()[1], Violation::LeakedCount { range: memory });
    b.close_all();
    assert_eq!(b.violations()[2], Violation::ReleasedWhileMapped { range: memory, mapped: 1 });
}

#[test]
fn a_default_window_recreated_smaller_goes_on_past_its_end() {
    for preset in ["pseries", "pseries-4k-7.2"] {
        let b = fixture(preset);
        let memory = b.registered(0x10000);
        assert_eq!(b.remove(0), OK);
        assert_eq!(b.create(12, 0x4000, 1), Ok(0));
        assert_eq!(b.map(memory.start(), 0x2000, 0x3000), OK, "the hypervisor's window is larger");
        assert_eq!(b.unmap(0, 0x4000), OK);
        assert_eq!(b.mapped(memory), 1, "the one past the end");
        assert!(matches!(b.violations()[..], [Violation::MapPastWindow { fatal: false, .. }]));
        b.close_all();
        assert_eq!(b.violations()[1], Violation::ReleasedWhileMapped { range: memory, mapped: 1 });
    }
    // Up to the end of the page in which the kernel's array ends.
    let b = fixture("pseries-4k");
    let memory = b.registered(0x20_1000);
    assert_eq!(b.remove(0), OK);
    assert_eq!(b.create(12, 0x4000, 1), Ok(0));
    assert_eq!(b.map(memory.start(), 0, 0x20_1000), Err(Errno::EINTR));
    assert!(matches!(b.violations()[..], [Violation::MapPastWindow { fatal: true, .. }]));
}

#[test]
fn unmap_past_the_window_depends_on_the_kernel() {
    let cases = [
        ("powernv9", OK, 0, 1),
        ("powernv9-6.12.111", OK, 0, 1),
        ("powernv9-6.12.112", Ok(1), 1, 0),
        ("powernv9-7.2.7", OK, 0, 1),
        ("powernv9-7.2.8", Ok(1), 1, 0),
        ("pseries", OK, 0, 0),
        ("pseries-6.12.117", Ok(1), 1, 0),
        ("pseries-7.2.6", OK, 0, 0),
        ("pseries-7.2.9", Ok(1), 1, 0),
        ("pseries-7.2", Ok(1), 1, 0),
    ];
    for (preset, expected, mapped, violations) in cases {
        let b = fixture(preset);
        let end = if preset.starts_with("pseries") { 1 << 30 } else { END };
        let memory = b.registered(0x10000);
        assert_eq!(b.map(memory.start(), end - 0x1000, 0x1000), OK);
        assert_eq!(b.unmap(end - 0x1000, 0x2000), expected, "{preset}");
        assert_eq!((b.mapped(memory), b.violations().len()), (mapped, violations), "{preset}");
    }
}

#[test]
fn a_strict_model_panics() {
    let b = Fixture::on(model("powernv9").panic_on_violation(), &[0], 7);
    b.registered(0x10000);
    let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| b.unmap(0, 0)));
    assert!(died.is_err());
    assert_eq!(b.violations().len(), 1, "and goes on working");
}

#[test]
#[cfg_attr(miri, ignore = "measures time")]
fn mapping_64_gib_is_cheap() {
    let b = Fixture::on(model("powernv9-4k").with_open_memory(), &[0], 7);
    let memory = user(1 << 40, 64 << 30);
    let window = b.create(12, 64 << 30, 2).unwrap();
    let began = Instant::now();
    assert_eq!(b.register(memory), OK);
    assert_eq!(b.map(memory.start(), window, 64 << 30), OK);
    assert_eq!(b.mapped(memory), 16 << 20);
    assert_eq!(b.unmap(window, 64 << 30), OK);
    assert_eq!(b.unregister(memory), OK);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn a_map_at_bus_address_0_that_fails_at_once_hangs_power8() {
    for (preset, hangs) in [("powernv8", true), ("powernv9", false), ("pseries", false)] {
        let b = fixture(preset);
        let memory = b.registered(0x10000);
        let stranger = b.memory(0x10000);
        assert_eq!(b.map(stranger.start(), 0x1000, 0x1000), Err(Errno::EINVAL), "elsewhere it is harmless");
        assert_eq!(b.map(at(memory, 0xf000), 0, 0x2000), Err(Errno::EINVAL), "as it is after a good page");
        assert_eq!(b.violations(), []);
        assert_eq!(b.map(stranger.start(), 0, 0x1000), Err(Errno::EINVAL));
        let expected = if hangs { vec![Violation::FailedMapAtZero { size: 0x1000 }] } else { Vec::new() };
        assert_eq!(b.violations(), expected, "{preset}");
    }
}
