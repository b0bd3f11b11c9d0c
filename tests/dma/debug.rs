//! `Debug` is for a line of a log.

use crate::fixture::{FIRST, Fixture, PRESETS, RW, SECOND};
use spapr_iommu::dma::{DmaMask, MemoryPart};

/// Bytes of a line that is still read.
const LINE: usize = 250;

#[test]
fn what_a_driver_holds_is_shown_in_a_line() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let devices = [FIRST, SECOND].map(|address| fixture.dma.open(address, DmaMask::ALL).unwrap());
        let small: Vec<_> = (0..50).map(|_| fixture.dma.buffer::<u64>(9, RW).unwrap()).collect();
        let large = fixture.dma.buffer::<u64>(90_000, RW).unwrap();
        let pool = fixture.dma.pool::<[u8; 64]>(1000, RW).unwrap();
        let block = pool.take().unwrap();
        let memory = fixture.dma.memory(1 << 20).unwrap();
        let map = memory.map(0, 100, RW).unwrap();
        let parts: Vec<_> = (0..100).map(|i| MemoryPart { offset: i * 8192, len: 8 }).collect();
        let scatter = memory.map_parts(&parts, RW).unwrap();
        let bytes = fixture.dma.aligned_bytes(100_000).unwrap();
        let shown = [
            format!("{:?}", fixture.dma),
            format!("{:?}", small[7]),
            format!("{large:?}"),
            format!("{pool:?}"),
            format!("{block:?}"),
            format!("{memory:?}"),
            format!("{map:?}"),
            format!("{scatter:?}"),
            format!("{bytes:?}"),
            format!("{:?}", memory.map(0, 1 << 21, RW)),
            format!("{:?}", fixture.dma.space()),
            format!("{:?}", fixture.dma.space().registry()),
        ];
        let names = [
            "Dma(",
            "Buffer",
            "Buffer",
            "Pool",
            "Block",
            "DmaMemory",
            "StreamMap",
            "ScatterMap",
            "Aligned",
            "Err",
            "AddressSpace",
            "Registry",
        ];
        for (text, name) in shown.iter().zip(names) {
            assert!(text.starts_with(name), "{text}");
            assert!(text.len() <= LINE && !text.contains('\n'), "{} bytes: {text}", text.len());
        }
        assert!(shown[0].contains("2 devices"), "{}", shown[0]);
        // Buffers of a pretty-printed struct stay what they are.
        assert!(format!("{:#?}", fixture.dma).len() <= LINE);
        drop((devices, small, large, pool, block, map, scatter, memory));
        fixture.ends_clean();
    }
}
