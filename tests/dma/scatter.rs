//! Scatter-gather: parts of one memory in one map.

use crate::fixture::{FIRST, Fixture, PRESETS, RW, apart};
use spapr_iommu::dma::{DmaError, DmaMask, MemoryPart};

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
        let device = fixture.dma.open(FIRST, DmaMask::ALL).unwrap();
        let memory = fixture.dma.memory(1 << 20).unwrap();
        // Out of order; pages of 64K: 8, 0 with 1, and 4 twice.
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
    let device = fixture.dma.open(FIRST, DmaMask::ALL).unwrap();
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
    let device = fixture.dma.open(FIRST, DmaMask::ALL).unwrap();
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
