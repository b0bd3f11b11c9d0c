//! Buffers: typed, bounds-checked, visible to devices, released when dropped. In the steady state,
//! pools of them make no kernel call.

use crate::{BIG, FIRST, Fixture, PRESETS, RW, apart};
use core::mem::offset_of;
use spapr_iommu::dma::{DmaError, DmaMask, OutOfBounds};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, PartialEq)]
#[repr(C)]
struct Entry {
    address: U64,
    length: U32,
    flags: U16,
    phase: U16,
}

#[test]
fn devices_see_what_is_written_in_any_type() {
    for preset in PRESETS {
        let fixture = Fixture::new(preset);
        let _device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
        let ring = fixture.dma.buffer::<Entry>(1000, RW).unwrap();
        assert_eq!(ring.len(), 1000);
        assert_eq!(ring.iova_range().len(), 16000);
        assert!(ring.iova().0 >= BIG, "{preset}: {}", ring.iova());
        let entry = Entry { address: 0x1234_5678_9abc.into(), length: 7.into(), flags: 1.into(), phase: 0x8001.into() };
        ring.write(999, entry).unwrap();
        assert_eq!(ring.read(999), Ok(entry));
        assert_eq!(ring.read_field::<U16>(999, offset_of!(Entry, phase)), Ok(U16::new(0x8001)));
        ring.write_field(999, offset_of!(Entry, length), U32::new(9)).unwrap();
        let at = ring.iova_of(999).unwrap();
        assert_eq!(fixture.device_reads(at, 16), Entry { length: 9.into(), ..entry }.as_bytes());
        let mut some = [entry; 3];
        ring.write_slice(500, &some).unwrap();
        some = [Entry::new_zeroed(); 3];
        ring.read_slice(499, &mut some).unwrap();
        assert_eq!(some, [Entry::new_zeroed(), entry, entry]);
        drop(ring);
        assert_eq!(fixture.device_reads(at, 16), [0; 16], "nothing is mapped there any longer");
        drop(_device);
        fixture.ends_clean();
    }
}

#[test]
fn an_access_outside_is_an_error_and_changes_nothing() {
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let buffer = fixture.dma.buffer::<u32>(8, RW).unwrap();
    let beside = fixture.dma.buffer::<u32>(8, RW).unwrap();
    let outside = |offset, len| Err(OutOfBounds { offset, len, size: 32 });
    assert_eq!(buffer.write(8, 1), outside(32, 4));
    assert_eq!(buffer.read(8).map(|_| ()), outside(32, 4));
    assert_eq!(buffer.write_slice(7, &[1, 2]), outside(28, 8));
    assert_eq!(buffer.write_bytes(30, &[1; 3]), outside(30, 3));
    assert_eq!(buffer.read_bytes(u64::MAX, &mut [0; 3]), outside(u64::MAX, 3));
    assert_eq!(buffer.iova_of(8).map(|_| ()), outside(32, 4));
    let in_element = Err(OutOfBounds { offset: 2, len: 4, size: 4 });
    assert_eq!(buffer.read_field::<u32>(0, 2).map(|_| ()), in_element, "a field ends in its element");
    assert!(buffer.read(usize::MAX).is_err());
    let mut all = [1; 8];
    buffer.read_slice(0, &mut all).unwrap();
    beside.read_slice(0, &mut all).unwrap();
    assert_eq!(all, [0; 8]);
    drop((buffer, beside, device));
    fixture.ends_clean();
}

#[test]
fn buffers_of_no_bytes_or_too_many_are_refused() {
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    assert_eq!(fixture.dma.buffer::<u64>(0, RW).err(), Some(DmaError::Empty));
    assert_eq!(fixture.dma.buffer::<()>(5, RW).err(), Some(DmaError::Empty));
    let too_large = DmaError::TooLarge { count: usize::MAX, size: 8 };
    assert_eq!(fixture.dma.buffer::<u64>(usize::MAX, RW).err(), Some(too_large));
    assert!(fixture.dma.buffer::<u8>(1 << 46, RW).is_err());
    drop(device);
    fixture.ends_clean();
}

#[test]
fn any_order_of_dropping_leaves_nothing_behind() {
    for order in 0..6 {
        let fixture = Fixture::new("pseries-64k");
        let mut device = Some(fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap());
        let mut large = Some(fixture.dma.buffer::<u8>(200_000, RW).unwrap());
        let mut small = Some(fixture.dma.buffer::<u8>(100, RW).unwrap());
        let places = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        for what in places[order] {
            match what {
                0 => drop(device.take()),
                1 => drop(large.take()),
                _ => drop(small.take()),
            }
        }
        fixture.ends_clean();
    }
}

#[test]
fn buffers_outlive_what_made_them() {
    let fixture = Fixture::new("powernv9-64k");
    let Fixture { model, calls, dma } = fixture;
    let device = dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let buffer = dma.buffer::<u64>(64, RW).unwrap();
    drop((dma, device));
    buffer.write(3, 4).unwrap();
    assert_eq!(buffer.read(3), Ok(4));
    drop((buffer, calls));
    assert_eq!(model.locked(), 0);
    model.exit();
}

#[test]
fn small_buffers_share_a_page_and_are_zeroed() {
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    fixture.names();
    let buffers: Vec<_> = (0..16).map(|_| fixture.dma.buffer::<u64>(512, RW).unwrap()).collect();
    let names = fixture.names();
    assert_eq!(names.iter().filter(|name| **name == "VFIO_IOMMU_MAP_DMA").count(), 1, "{names:?}");
    let ranges: Vec<_> = buffers.iter().map(|buffer| buffer.iova_range()).collect();
    assert!(apart(&ranges));
    assert!(ranges.iter().all(|range| range.start().0 % 4096 == 0));
    buffers.iter().for_each(|buffer| buffer.write_slice(0, &[7; 512]).unwrap());
    let mut buffers = buffers;
    buffers.truncate(8);
    assert_eq!(fixture.names(), [""; 0]);
    let again = fixture.dma.buffer::<u64>(512, RW).unwrap();
    let mut all = [1; 512];
    again.read_slice(0, &mut all).unwrap();
    assert_eq!(all, [0; 512]);
    assert_eq!(fixture.names(), [""; 0]);
    drop((buffers, again, device));
    fixture.ends_clean();
}

#[test]
fn blocks_come_and_go_without_a_call() {
    let fixture = Fixture::new("pseries-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let pool = fixture.dma.pool::<[u8; 4096]>(32, RW).unwrap();
    fixture.names();
    for round in 0..1000u32 {
        let blocks: Vec<_> = (0..32).map(|_| pool.take().unwrap()).collect();
        assert_eq!(pool.take().err(), Some(DmaError::PoolEmpty { blocks: 32 }));
        assert!(apart(&blocks.iter().map(|block| block.iova_range()).collect::<Vec<_>>()));
        blocks[7].write_bytes(4092, &round.to_be_bytes()).unwrap();
        assert!(blocks[7].write_bytes(4093, &[0; 4]).is_err(), "the next block is another's");
        let last = blocks[7].iova_range().end().0 - 4;
        assert_eq!(fixture.device_reads(spapr_iommu::addr::Iova(last), 4), round.to_be_bytes());
    }
    assert_eq!(fixture.names(), [""; 0]);
    assert_eq!(pool.free(), 32);
    drop((pool, device));
    fixture.ends_clean();
}

#[test]
fn the_block_that_was_given_back_last_is_taken_first() {
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let pool = fixture.dma.pool::<[u64; 8]>(8, RW).unwrap();
    let (first, second) = (pool.take().unwrap(), pool.take().unwrap());
    let hot = first.iova();
    drop(second);
    drop(first);
    assert_eq!(pool.take().unwrap().iova(), hot);
    drop((pool, device));
    fixture.ends_clean();
}

#[test]
fn a_block_outlives_its_pool() {
    let fixture = Fixture::new("powernv9-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let pool = fixture.dma.pool::<u64>(4, RW).unwrap();
    let block = pool.take().unwrap();
    drop((pool, device));
    block.write(5).unwrap();
    assert_eq!(block.read(), Ok(5));
    drop(block);
    fixture.ends_clean();
}
