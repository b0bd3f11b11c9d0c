//! The window in which memory is mapped, and what a device's mask allows.

use crate::{BIG, FIRST, Fixture, PRESETS, RW, SECOND, bits};
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, PageShift};
use spapr_iommu::dma::{Buffer, DmaConfig, DmaError, DmaMask, OpenError};
use spapr_iommu::host::{Host, Memory};
use spapr_iommu::permission::Permission;
use spapr_iommu::window::Origin;
use spapr_iommu_tests::by_address::ByAddress;

#[test]
fn the_mask_decides_between_the_windows() {
    for preset in PRESETS {
        for (mask, big) in [(64, true), (60, true), (59, false), (32, false), (28, false)] {
            let fixture = Fixture::new(preset);
            let device = fixture.dma.open(FIRST.parse().unwrap(), bits(mask)).unwrap();
            let large = fixture.dma.buffer::<u8>(300_000, RW).unwrap();
            let small = fixture.dma.buffer::<u8>(300, RW).unwrap();
            for range in [large.iova_range(), small.iova_range()] {
                assert_eq!(range.start().0 >= BIG, big, "{preset}, {mask} bits: {range}");
                assert!(bits(mask).reaches(range));
                assert_ne!(range.start().0, 0, "which devices take for none");
            }
            let dynamic = fixture.dma.space().status().windows.iter().any(|(w, _)| w.origin != Origin::Default);
            assert_eq!(dynamic, big, "a window is made for who reaches it");
            drop((large, small, device));
            fixture.ends_clean();
        }
    }
}

#[test]
fn memory_is_in_reach_of_every_open_device() {
    let fixture = Fixture::new("pseries-64k");
    let wide = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let high = fixture.dma.buffer::<u8>(100_000, RW).unwrap();
    let narrow = fixture.dma.open(SECOND.parse().unwrap(), bits(32)).unwrap();
    let low = fixture.dma.buffer::<u8>(100_000, RW).unwrap();
    assert!(high.iova().0 >= BIG && low.iova_range().end().0 <= 1 << 32);
    drop(narrow);
    let high_again = fixture.dma.buffer::<u8>(100_000, RW).unwrap();
    assert!(high_again.iova().0 >= BIG);
    drop((wide, high, low, high_again));
    fixture.ends_clean();
}

#[test]
fn the_dynamic_window_is_as_large_as_asked_and_has_the_hosts_page() {
    // A table has at least a host page of entries.
    for (preset, page, bytes) in [
        ("powernv9-4k", PageShift::P4K, 32 << 20),
        ("pseries-4k", PageShift::P4K, 32 << 20),
        ("powernv9-64k", PageShift::P64K, 512 << 20),
    ] {
        let config = DmaConfig::default().with_capacity(32 << 20);
        let fixture = Fixture::with(preset, config, |model| model.with_free_huge_pages(0));
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let status = fixture.dma.space().status();
        let (window, _) = status.windows.iter().find(|(window, _)| window.origin != Origin::Default).unwrap();
        assert_eq!((window.page, window.range.len()), (page, bytes), "{preset}");
        drop(device);
        fixture.ends_clean();
    }
}

#[test]
fn hugetlb_pages_are_used_when_there_are_some_and_small_buffers_share_one() {
    let fixture = Fixture::with("pseries-4k", DmaConfig::default(), |model| model.with_free_huge_pages(4));
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let large = fixture.dma.buffer::<u8>(3 << 20, RW).unwrap();
    let small: Vec<_> = (0..10).map(|_| fixture.dma.buffer::<u8>(10_000, RW).unwrap()).collect();
    let in_window = |range: spapr_iommu::addr::IovaRange| {
        let status = fixture.dma.space().status();
        status.windows.iter().find(|(window, _)| window.range.contains_range(&range)).map(|(window, _)| window.page)
    };
    assert_eq!(in_window(large.iova_range()), Some(PageShift::P2M));
    assert!(small.iter().all(|buffer| in_window(buffer.iova_range()) == Some(PageShift::P2M)));
    // One page is left, which is not enough: ordinary memory is used, which any window's device
    // reaches.
    let ordinary = fixture.dma.buffer::<u8>(3 << 20, RW).unwrap();
    assert_eq!(in_window(ordinary.iova_range()), Some(PageShift::P4K));
    ordinary.write(5, 5).unwrap();
    drop((large, small, ordinary, device));
    fixture.ends_clean();
}

#[test]
fn hugetlb_pages_of_which_a_window_would_have_few_are_not_used() {
    for (capacity, page) in [(127 << 20, PageShift::P4K), (128 << 20, PageShift::P2M)] {
        let config = DmaConfig::default().with_capacity(capacity);
        let fixture = Fixture::with("pseries-4k", config, |model| model.with_free_huge_pages(4));
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let windows = fixture.dma.space().status().windows;
        let dynamic: Vec<_> = windows.iter().filter(|(window, _)| window.origin != Origin::Default).collect();
        assert_eq!((dynamic.len(), dynamic[0].0.page), (1, page), "{capacity:#x}");
        drop(device);
        fixture.ends_clean();
    }
}

#[test]
fn what_the_dynamic_window_has_no_room_for_is_in_the_default_one() {
    let config = DmaConfig::default().with_capacity(32 << 20);
    let fixture = Fixture::with("powernv9-4k", config, |model| model.with_free_huge_pages(0));
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let buffers: Vec<_> = (0..5).map(|_| fixture.dma.buffer::<u8>(7 << 20, RW).unwrap()).collect();
    let high: Vec<_> = buffers.iter().map(|buffer| buffer.iova().0 >= BIG).collect();
    assert_eq!(high, [true, true, true, true, false]);
    drop((buffers, device));
    fixture.ends_clean();
}

#[test]
fn without_the_default_window_there_is_one_window_and_less_to_lock() {
    for preset in PRESETS {
        let config = DmaConfig::default().without_default_window();
        let fixture = Fixture::with(preset, config, |model| model.with_free_huge_pages(0));
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let buffer = fixture.dma.buffer::<u8>(100_000, RW).unwrap();
        assert_eq!(fixture.dma.space().status().windows.len(), 1, "{preset}");
        assert_ne!(buffer.iova().0, 0);
        drop((buffer, device));
        fixture.ends_clean();
    }
}

#[test]
fn a_window_that_is_full_says_so_and_has_room_again() {
    let config = DmaConfig::default().with_capacity(32 << 20).without_default_window();
    let fixture = Fixture::with("powernv9-4k", config, |model| model.with_free_huge_pages(0));
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let buffers: Vec<_> = (0..4).map(|_| fixture.dma.buffer::<u8>(7 << 20, RW).unwrap()).collect();
    let refused = fixture.dma.buffer::<u8>(7 << 20, RW).unwrap_err();
    assert!(matches!(refused, DmaError::NoRoom { largest: 4_194_304, .. }), "{refused:?}");
    drop(buffers);
    fixture.dma.buffer::<u8>(28 << 20, RW).unwrap();
    drop(device);
    fixture.ends_clean();
}

#[test]
fn the_first_page_a_device_can_name_is_enough() {
    for (preset, first) in [("powernv9-4k", 13), ("pseries-64k", 17)] {
        let fixture = Fixture::new(preset);
        let device = fixture.dma.open(FIRST.parse().unwrap(), bits(first)).unwrap();
        assert!(fixture.dma.open(SECOND.parse().unwrap(), bits(first - 1)).is_err(), "{preset}");
        drop(device);
        fixture.ends_clean();
    }
}

#[test]
fn a_wide_device_gets_the_dynamic_window_though_a_narrow_one_came_first() {
    let fixture = Fixture::new("powernv9-64k");
    let narrow = fixture.dma.open(FIRST.parse().unwrap(), bits(32)).unwrap();
    let low = fixture.dma.buffer::<u8>(300, RW).unwrap();
    drop(narrow);
    let wide = fixture.dma.open(SECOND.parse().unwrap(), DmaMask::ALL).unwrap();
    let high = fixture.dma.buffer::<u8>(300, RW).unwrap();
    assert!(low.iova().0 < 1 << 32 && high.iova().0 >= BIG);
    drop((wide, low, high));
    fixture.ends_clean();
}

#[test]
fn small_buffers_share_a_page_with_their_like_only() {
    let fixture = Fixture::new("powernv9-64k");
    let wide = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let permissions = [Permission::ReadWrite, Permission::Read, Permission::Read, Permission::ReadWrite];
    let buffers = permissions.map(|permission| fixture.dma.buffer::<u8>(300, permission).unwrap());
    for (buffer, permission) in buffers.iter().zip(permissions) {
        assert_eq!(fixture.dma.space().translate(buffer.iova()).unwrap().permission, permission);
    }
    let page = |buffer: &Buffer<u8>| buffer.iova().0 >> 16;
    assert_eq!((page(&buffers[0]), page(&buffers[1])), (page(&buffers[3]), page(&buffers[2])));
    // Nor with windows that only other devices reach.
    let narrow = fixture.dma.open(SECOND.parse().unwrap(), bits(32)).unwrap();
    let low = fixture.dma.buffer::<u8>(300, RW).unwrap();
    assert!(low.iova_range().end().0 <= 1 << 32, "{}", low.iova_range());
    drop((wide, narrow, buffers, low));
    fixture.ends_clean();
}

#[test]
fn a_default_window_that_is_not_wanted_is_left_alone_where_others_use_it() {
    let config = DmaConfig::default().without_default_window();
    let fixture = Fixture::with("powernv9-64k", config, |model| model.with_free_huge_pages(0));
    let space = fixture.dma.space();
    space.attach(Group(0)).unwrap();
    let memory = fixture.dma.memory(0x1_0000).unwrap();
    let other = fixture.model.allocate(0x1_0000, PageShift::P64K).unwrap();
    let lease = space.registry().lease(other).unwrap();
    let at = IovaRange::new(Iova(0x1_0000), 0x1_0000).unwrap();
    space.map(at, other.start(), RW).unwrap();
    let refused = fixture.dma.open(SECOND.parse().unwrap(), bits(32)).unwrap_err();
    assert!(matches!(refused, OpenError::Dma(DmaError::Window(_))), "{refused}");
    let device = fixture.dma.open(SECOND.parse().unwrap(), DmaMask::ALL).unwrap();
    assert!(memory.map(0, 1, RW).unwrap().iova_range().start().0 >= BIG);
    space.unmap(at).unwrap();
    drop((device, lease, memory));
    fixture.ends_clean();
}

#[test]
fn a_default_window_that_was_given_up_serves_no_one() {
    let fixture = Fixture::new("pseries-64k");
    fixture.dma.space().attach(Group(0)).unwrap();
    fixture.dma.space().drop_default_window().unwrap();
    assert!(fixture.dma.open(SECOND.parse().unwrap(), bits(30)).is_err());
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let buffer = fixture.dma.buffer::<u8>(300, RW).unwrap();
    assert_eq!(fixture.dma.space().status().windows.len(), 1);
    drop((buffer, device));
    fixture.ends_clean();
}

#[test]
fn without_the_default_window_no_buffer_lies_over_the_mmio_of_powernv() {
    for (preset, mask) in [("powernv8-64k", 64), ("powernv9-64k", 64), ("powernv10-4k-7.2", 60), ("powernv9-64k", 40)] {
        let config = DmaConfig::default().with_capacity(8 << 30).without_default_window();
        let fixture = Fixture::with(preset, config, |model| model.with_free_huge_pages(0));
        let device = fixture.dma.open(FIRST.parse().unwrap(), bits(mask)).unwrap();
        let buffers: Vec<_> = (0..4).map(|_| fixture.dma.buffer::<u8>(1 << 20, RW).unwrap()).collect();
        let windows = fixture.dma.space().status().windows;
        assert_eq!(windows.len(), 1, "{preset}");
        for range in buffers.iter().map(|buffer| buffer.iova_range()) {
            let (start, end) = (range.start().0, range.end().0);
            assert!(end <= 2 << 30 || start >= 4 << 30, "{preset}, {mask} bits: {range}");
            assert_eq!(start >= BIG, mask >= 60, "{preset}, {mask} bits: {range}");
            assert_eq!(fixture.device_reads(range.start(), 4), [0; 4]);
        }
        drop((buffers, device));
        fixture.ends_clean();
    }
}

#[test]
fn a_mask_is_refused_at_open_or_gets_memory() {
    for preset in PRESETS {
        for mask in 1..=64 {
            let fixture = Fixture::new(preset);
            match fixture.dma.open(FIRST.parse().unwrap(), bits(mask)) {
                Ok(device) => {
                    let buffer = fixture.dma.buffer::<u8>(64, RW).unwrap();
                    assert!(bits(mask).reaches(buffer.iova_range()), "{preset}, {mask} bits");
                    drop((buffer, device));
                }
                Err(OpenError::Dma(DmaError::MaskTooSmall { mask: told, lowest, least })) => {
                    let needed = if fixture.model.page_shift().bytes() == 4096 { 13 } else { 17 };
                    assert_eq!((told, lowest.0, least), (bits(mask), 4096, bits(needed)), "{preset}");
                    assert!(mask < needed, "{preset}, {mask} bits");
                }
                Err(error) => panic!("{preset}, {mask} bits: {error}"),
            }
            fixture.ends_clean();
        }
    }
}

/// With two small buffers on one page, the second would not show that it has no page within reach.
#[test]
fn memory_stays_in_reach_of_a_mask_within_the_window() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let device = fixture.dma.open(FIRST.parse().unwrap(), bits(24)).unwrap();
        let mut all = Vec::new();
        let refused = loop {
            match fixture.dma.buffer::<u8>(1 << 20, RW) {
                Ok(buffer) => all.push(buffer),
                Err(error) => break error,
            }
        };
        assert_eq!(all.len(), 15, "{preset}: 16 MiB without the first page");
        assert!(all.iter().all(|buffer| bits(24).reaches(buffer.iova_range())), "{preset}");
        let DmaError::NoRoomInReach { mask, largest, .. } = refused else { panic!("{refused}") };
        assert_eq!((mask, largest), (bits(24), (1 << 20) - 4096), "{preset}");
        assert!(!refused.to_string().contains("capacity"), "no window is large enough: {refused}");
        // A free span within reach is found, although there are larger ones out of reach.
        all.remove(7);
        all.push(fixture.dma.buffer::<u8>(1 << 20, RW).unwrap());
        assert!(all.iter().all(|buffer| bits(24).reaches(buffer.iova_range())), "{preset}");
        drop((all, device));
        fixture.ends_clean();
    }
}

#[test]
fn a_full_default_window_is_no_matter_of_capacity() {
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), bits(32)).unwrap();
    let refused = fixture.dma.buffer::<u8>(3 << 30, RW).unwrap_err();
    assert!(matches!(refused, DmaError::NoRoomInReach { bytes, .. } if bytes == 3 << 30), "{refused:?}");
    assert!(!refused.to_string().contains("capacity"), "{refused}");
    drop(device);
    fixture.ends_clean();
}

#[test]
fn a_device_that_comes_later_with_fewer_bits_gets_what_it_reaches() {
    let fixture = Fixture::new("powernv9-64k");
    let first = fixture.dma.open(FIRST.parse().unwrap(), bits(32)).unwrap();
    let low = fixture.dma.buffer::<u8>(15 << 20, RW).unwrap();
    let second = fixture.dma.open(SECOND.parse().unwrap(), bits(24)).unwrap();
    let refused = fixture.dma.buffer::<u8>(2 << 20, RW).unwrap_err();
    assert!(matches!(refused, DmaError::NoRoomInReach { largest, .. } if largest < 1 << 20), "{refused:?}");
    drop(low);
    let fits = fixture.dma.buffer::<u8>(2 << 20, RW).unwrap();
    assert!(bits(24).reaches(fits.iova_range()) && DmaMask::ALL.reaches(fits.iova_range()));
    drop((first, second, fits));
    fixture.ends_clean();
}
