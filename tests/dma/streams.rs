//! Memory that is mapped for each transfer, in whole or in part, and memory that the caller had
//! before.

use crate::{BIG, FIRST, Fixture, PRESETS, RW, SECOND, apart, bits};
use spapr_iommu::addr::PageShift;
use spapr_iommu::dma::{DmaConfig, DmaError, DmaMask, DmaMemory, MemoryPart};
use spapr_iommu::permission::Permission;

#[test]
fn a_transfer_costs_one_map_and_one_unmap_and_comes_to_the_same_place() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let memory = fixture.dma.memory(1 << 20).unwrap();
        drop(memory.map(0, 1, RW).unwrap());
        fixture.names();
        let mut places = Vec::new();
        for transfer in 0..100u64 {
            let offset = transfer * 5000;
            memory.write_bytes(offset, &transfer.to_be_bytes()).unwrap();
            let map = memory.map(offset, 5000, Permission::Read).unwrap();
            assert_eq!(fixture.device_reads(map.iova_range().start(), 8), transfer.to_be_bytes());
            places.push(map.iova_range().start().0 >> 18);
        }
        places.dedup();
        assert_eq!(places.len(), 1, "hot addresses are used again");
        let names = fixture.names();
        assert_eq!(names.len(), 200, "{names:?}");
        drop((memory, device));
        fixture.ends_clean();
    }
}

#[test]
fn large_memory_lies_in_hugetlb_pages_where_the_window_has_them() {
    let fixture = Fixture::with("pseries-4k", DmaConfig::default(), |model| model.with_free_huge_pages(4));
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let large = fixture.dma.memory(3 << 20).unwrap();
    let small = fixture.dma.memory(3 << 12).unwrap();
    assert_eq!((large.size(), small.size()), (4 << 20, 3 << 12));
    let place = |memory: &DmaMemory| memory.map(0, 1, RW).unwrap().iova_range().start().0;
    assert!(place(&large) >= BIG && place(&small) < BIG);
    drop((large, small, device));
    fixture.ends_clean();
}

/// Windows of large pages, but a process without memory of such pages.
#[test]
fn memory_that_no_window_could_map_is_refused_at_once() {
    let config = DmaConfig::default().with_page(PageShift::P16M).without_default_window().with_capacity(1 << 30);
    let fixture = Fixture::with("powernv8-64k", config, |model| model.with_free_huge_pages(0));
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    let (early, early_file) = (fixture.dma.memory(1 << 20).unwrap(), fixture.dma.file(&file, 0, 1 << 20).unwrap());
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    for bytes in [1, 1 << 20, 20 << 20] {
        let refused = fixture.dma.memory(bytes).unwrap_err();
        let page = PageShift::P16M;
        assert!(matches!(refused, DmaError::Memory { page: told, .. } if told == page), "{refused}");
        assert_eq!(fixture.dma.buffer::<u8>(bytes as usize, RW).unwrap_err().to_string().split(' ').next(), Some("no"));
    }
    // Memory that was created earlier, or belongs to the caller, is not refused for its alignment.
    for refused in [
        fixture.dma.file(&file, 0, 1 << 20).unwrap_err(),
        early.map(0, 1 << 20, RW).unwrap_err(),
        early_file.map(0, 1 << 20, RW).unwrap_err(),
    ] {
        let (memory, window) = (PageShift::P64K, PageShift::P16M);
        assert!(
            matches!(refused, DmaError::PageTooLarge { max_iommu_page, page, .. } if (max_iommu_page, page) == (memory, window)),
            "{refused}"
        );
    }
    let mut slice = fixture.dma.aligned_bytes(0x1_0000).unwrap();
    let refused = fixture.dma.with_slice(&mut slice, RW, |_| ()).unwrap_err();
    assert!(matches!(refused, DmaError::PageTooLarge { .. }), "{refused}");
    drop((early, early_file, device));
    fixture.ends_clean();
    // As long as a hugetlb page is left, it is used.
    let fixture = Fixture::with("powernv8-64k", config, |model| model.with_free_huge_pages(1));
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let memory = fixture.dma.memory(1 << 20).unwrap();
    assert_eq!(memory.size(), 16 << 20);
    memory.map(0, 1 << 20, RW).unwrap();
    drop((memory, device));
    fixture.ends_clean();
}

#[test]
fn a_part_outside_the_memory_is_refused() {
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let memory = fixture.dma.memory(0x1_0000).unwrap();
    for (offset, len) in [(0, 0x1_0001), (0x1_0000, 1), (u64::MAX, 1), (0, 0), (1, u64::MAX)] {
        let refused = memory.map(offset, len, RW).unwrap_err();
        assert!(matches!(refused, DmaError::OutOfBounds(_)), "{refused}");
    }
    let map = memory.map(0x8000, 0x100, RW).unwrap();
    assert!(map.write_bytes(0xff, &[1, 2]).is_err());
    map.write_bytes(0xff, &[1]).unwrap();
    let mut byte = [0];
    memory.read_bytes(0x80ff, &mut byte).unwrap();
    assert_eq!(byte, [1]);
    drop((map, memory, device));
    fixture.ends_clean();
}

#[test]
fn a_slice_is_mapped_while_it_is_lent() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let mut slice = fixture.dma.aligned_bytes(0x2_0000).unwrap();
        slice[0x1_2345] = 9;
        let at = fixture
            .dma
            .with_slice(&mut slice, RW, |map| {
                let at = map.iova_range().start();
                assert_eq!(fixture.device_reads(at, 0x2_0000)[0x1_2345], 9, "{preset}");
                map.write_bytes(5, b"from the device").unwrap();
                at
            })
            .unwrap();
        assert_eq!(&slice[5..20], b"from the device");
        assert_eq!(fixture.device_reads(at, 0x2_0000), vec![0; 0x2_0000]);
        drop(device);
        fixture.ends_clean();
    }
}

#[test]
fn a_slice_is_taken_back_when_its_user_panics() {
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let mut slice = fixture.dma.aligned_bytes(0x1_0000).unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        fixture.dma.with_slice(&mut slice, RW, |_| panic!("in between"))
    }));
    assert_eq!(result.unwrap_err().downcast_ref::<&str>(), Some(&"in between"), "another panic");
    drop(device);
    fixture.ends_clean();
}

#[test]
fn a_slice_off_a_page_is_refused_since_its_neighbours_are_not_the_callers() {
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let mut slice = fixture.dma.aligned_bytes(0x2_0000).unwrap();
    for (from, to) in [(1, 0x1_0001), (8, 0x1_0000), (0, 0x1_0008), (0x1000, 0x2000)] {
        let refused = fixture.dma.with_slice(&mut slice[from..to], RW, |_| ()).unwrap_err();
        assert!(matches!(refused, DmaError::Unaligned { .. }), "{refused}");
    }
    assert_eq!(fixture.dma.with_slice(&mut [], RW, |_| ()).err(), Some(DmaError::Empty));
    drop(device);
    fixture.ends_clean();
}

#[test]
fn a_device_that_comes_later_sees_what_is_mapped() {
    let fixture = Fixture::new("powernv9-64k");
    let first = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let buffer = fixture.dma.buffer::<u64>(16, RW).unwrap();
    buffer.write(0, u64::from_be_bytes(*b"all see ")).unwrap();
    let second = fixture.dma.open(SECOND.parse().unwrap(), bits(64)).unwrap();
    let mut seen = [0; 8];
    fixture.model.device_read(fixture.model.containers()[1], buffer.iova(), &mut seen);
    assert_eq!(&seen, &u64::from_be_bytes(*b"all see ").to_ne_bytes());
    drop((first, buffer, second));
    fixture.ends_clean();
}

fn parts(list: &[(u64, u64)]) -> Vec<MemoryPart> {
    list.iter().map(|&(offset, len)| MemoryPart { offset, len }).collect()
}

fn count(names: &[&str], name: &str) -> usize {
    names.iter().filter(|there| **there == name).count()
}

#[test]
fn parts_take_a_map_for_each_stretch_of_pages_and_one_unmap() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let memory = fixture.dma.memory(1 << 20).unwrap();
        // Out of order; 64K pages: 8, 0 with 1, and 4 twice.
        let list = parts(&[(0x8_0010, 0x20), (0x0_fff0, 0x20), (0x4_0000, 0x1000), (0x4_0800, 0x10), (0x0_0000, 0x10)]);
        for (part, tag) in list.iter().zip(1u8..) {
            memory.write_bytes(part.offset, &[tag; 8]).unwrap();
        }
        fixture.names();
        let map = memory.map_parts(&list, RW).unwrap();
        let made = fixture.names();
        let host_pages_are_small = preset.ends_with("-4k");
        assert_eq!(count(&made, "VFIO_IOMMU_MAP_DMA"), if host_pages_are_small { 4 } else { 3 }, "{preset}: {made:?}");
        let ranges = map.iova_ranges();
        assert_eq!(ranges.iter().map(|range| range.len()).collect::<Vec<_>>(), [0x20, 0x20, 0x1000, 0x10, 0x10]);
        for (range, tag) in ranges.iter().zip(1u8..) {
            let expected = if tag == 3 { [3; 8] } else { [tag; 8] };
            assert_eq!(fixture.device_reads(range.start(), 8), expected, "{preset}: part {tag}");
        }
        assert_eq!(ranges[3].start().0 - ranges[2].start().0, 0x800, "one page, one place");
        let first = ranges[0].start();
        drop(map);
        let gone = fixture.names();
        assert_eq!((count(&gone, "VFIO_IOMMU_UNMAP_DMA"), gone.len()), (1, 1), "{preset}: {gone:?}");
        assert_eq!(fixture.device_reads(first, 8), [0; 8]);
        drop((memory, device));
        fixture.ends_clean();
    }
}

#[test]
fn parts_outside_the_memory_are_refused_and_map_nothing() {
    let fixture = Fixture::new("pseries-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let memory = fixture.dma.memory(0x4_0000).unwrap();
    for bad in [(0x4_0000, 1), (0, 0x4_0001), (u64::MAX, 2), (0, 0)] {
        let refused = memory.map_parts(&parts(&[(0, 16), bad]), RW).unwrap_err();
        assert!(matches!(refused, DmaError::OutOfBounds(_)), "{refused}");
    }
    assert_eq!(memory.map_parts(&[], RW).err(), Some(DmaError::Empty));
    assert_eq!(fixture.dma.space().mapped(), (0, 0));
    drop((memory, device));
    fixture.ends_clean();
}

#[test]
fn any_parts_are_seen_where_the_map_says() {
    let fixture = Fixture::new("powernv9-4k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let memory = fixture.dma.memory(1 << 18).unwrap();
    let pattern: Vec<u8> = (0..1u32 << 18).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    memory.write_bytes(0, &pattern).unwrap();
    let mut rng = fastrand::Rng::with_seed(22);
    for _ in 0..50 {
        let some = |_| {
            let offset = rng.u64(0..1 << 18);
            MemoryPart { offset, len: rng.u64(1..=((1 << 18) - offset).min(9000)) }
        };
        let list: Vec<_> = (0..20).map(some).collect();
        let map = memory.map_parts(&list, RW).unwrap();
        for (part, range) in list.iter().zip(map.iova_ranges()) {
            let (from, to) = (part.offset as usize, (part.offset + part.len) as usize);
            assert_eq!(fixture.device_reads(range.start(), part.len as usize), pattern[from..to], "{part:?}");
        }
        let second = memory.map_parts(&list[..1], RW).unwrap();
        assert!(apart(&[map.iova_ranges()[0], second.iova_ranges()[0]]));
    }
    drop((memory, device));
    fixture.ends_clean();
}
