//! Memory by its address, for system calls and for `vm-memory`; and slices that can be lent.

use crate::{FIRST, Fixture, PRESETS, RW};
use core::mem::offset_of;
use spapr_iommu::addr::Iova;
use spapr_iommu::dma::{DmaError, DmaMask};
use spapr_iommu::host::Host;
use std::io::Write;
use std::os::fd::AsRawFd;

/// Has the kernel write `text` to a pointer, as `read` of a file does.
fn kernel_reads_into(at: *mut u8, text: &[u8]) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(text).unwrap();
    // SAFETY: the caller's pointer is good for `text.len()` bytes, and the kernel alone accesses
    // them.
    let read = unsafe { libc::pread(file.as_raw_fd(), at.cast(), text.len(), 0) };
    assert_eq!(usize::try_from(read), Ok(text.len()));
}

#[test]
fn the_kernel_fills_what_devices_read() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        // The second small buffer does not start where its page does.
        let small = [fixture.dma.buffer::<u64>(8, RW).unwrap(), fixture.dma.buffer::<u64>(8, RW).unwrap()];
        let large = fixture.dma.buffer::<u8>(200_000, RW).unwrap();
        let pool = fixture.dma.pool::<[u8; 512]>(3, RW).unwrap();
        let blocks = [pool.take().unwrap(), pool.take().unwrap()];
        let memory = fixture.dma.memory(1 << 17).unwrap();
        let map = memory.map(0x1_2340, 64, RW).unwrap();
        let all: [(*mut u8, Iova, &[u8]); 6] = [
            (small[0].as_ptr(), small[0].iova(), b"small"),
            (small[1].as_ptr(), small[1].iova(), b"beside it"),
            (large.as_ptr(), large.iova(), b"large"),
            (blocks[0].as_ptr(), blocks[0].iova(), b"block"),
            (blocks[1].as_ptr(), blocks[1].iova(), b"another"),
            (map.as_ptr(), map.iova_range().start(), b"stream"),
        ];
        all.iter().for_each(|(at, _, text)| kernel_reads_into(*at, text));
        for (_, iova, text) in all {
            assert_eq!(fixture.device_reads(iova, text.len()), text, "{preset}");
        }
        assert_eq!((small[1].size(), large.size()), (64, 200_000));
        assert_eq!(memory.as_ptr().addr() + 0x1_2340, map.as_ptr().addr());
        drop((small, large, pool, blocks, map, memory, device));
        fixture.ends_clean();
    }
}

#[cfg(feature = "vm-memory")]
#[test]
fn volatile_slices_reach_the_memory_and_nothing_beside_it() {
    use vm_memory::Bytes;
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let (_before, buffer) = (fixture.dma.buffer::<u8>(64, RW).unwrap(), fixture.dma.buffer::<u8>(64, RW).unwrap());
    buffer.volatile_slice(8, 56).unwrap().write_slice(b"buffer", 2).unwrap();
    assert_eq!(fixture.device_reads(Iova(buffer.iova().0 + 10), 6), b"buffer");
    let pool = fixture.dma.pool::<[u8; 512]>(3, RW).unwrap();
    let block = pool.take().unwrap();
    block.volatile_slice(500, 12).unwrap().write_slice(b"block", 0).unwrap();
    assert_eq!(fixture.device_reads(Iova(block.iova().0 + 500), 5), b"block");
    let memory = fixture.dma.memory(1 << 17).unwrap();
    memory.volatile_slice(0x1_0000, 16).unwrap().write_slice(b"memory", 0).unwrap();
    let map = memory.map(0x1_0000, 64, RW).unwrap();
    assert_eq!(fixture.device_reads(map.iova_range().start(), 6), b"memory");
    map.volatile_slice(60, 4).unwrap().write_slice(b"last", 0).unwrap();
    assert_eq!(fixture.device_reads(Iova(map.iova_range().start().0 + 60), 4), b"last");
    for (offset, len) in [(64, 1), (0, 65), (u64::MAX, 1), (1, u64::MAX)] {
        assert!(buffer.volatile_slice(offset, len).is_err() && map.volatile_slice(offset, len).is_err());
        assert!(block.volatile_slice(offset.saturating_add(448), len.saturating_add(448)).is_err());
    }
    assert!(memory.volatile_slice(1 << 17, 1).is_err());
    drop((_before, buffer, pool, block, map, memory, device));
    fixture.ends_clean();
}

#[repr(C)]
#[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
struct Command {
    code: u32,
    tag: u32,
}

#[test]
fn a_block_takes_a_field_and_leaves_the_rest() {
    let fixture = Fixture::new("pseries-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let pool = fixture.dma.pool::<Command>(4, RW).unwrap();
    let block = pool.take().unwrap();
    block.write(Command { code: 1, tag: 2 }).unwrap();
    block.write_field(offset_of!(Command, tag), 7u32).unwrap();
    let found = block.read().unwrap();
    assert_eq!((found.code, found.tag), (1, 7));
    assert_eq!(block.read_field::<u32>(offset_of!(Command, tag)), Ok(7));
    assert!(block.write_field(6, 0u32).is_err(), "a field ends in its block");
    drop((pool, block, device));
    fixture.ends_clean();
}

#[test]
fn aligned_bytes_are_lent_as_they_are() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let page = fixture.model.page_shift().bytes() as usize;
        for (asked, len) in [(1, page), (page, page), (page + 1, 2 * page)] {
            let mut bytes = fixture.dma.aligned_bytes(asked).unwrap();
            assert_eq!((bytes.len(), bytes.as_ptr().addr() % page), (len, 0), "{preset}");
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes[len - 1] = 9;
            let mut moved = Box::new(bytes);
            let last = fixture.dma.with_slice(&mut moved, RW, |map| {
                map.write_bytes(0, b"written").unwrap();
                fixture.device_reads(Iova(map.iova_range().end().0 - 1), 1)
            });
            assert_eq!(last.unwrap(), [9]);
            assert_eq!(&moved[..7], b"written");
        }
        assert_eq!(fixture.dma.aligned_bytes(0).err(), Some(DmaError::Empty));
        assert!(matches!(fixture.dma.aligned_bytes(usize::MAX), Err(DmaError::Memory { .. })));
        assert!(matches!(fixture.dma.aligned_bytes(1 << 62), Err(DmaError::Memory { .. })));
        drop(device);
        fixture.ends_clean();
    }
}
