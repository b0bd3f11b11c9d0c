//! Pools: no call to the kernel in the steady state.

use crate::fixture::{FIRST, Fixture, RW, apart};
use spapr_iommu::dma::{DmaError, DmaMask};

#[test]
fn blocks_come_and_go_without_a_call() {
    let fixture = Fixture::new("pseries-64k");
    let device = fixture.dma.open(FIRST, DmaMask::ALL).unwrap();
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
    let device = fixture.dma.open(FIRST, DmaMask::ALL).unwrap();
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
    let device = fixture.dma.open(FIRST, DmaMask::ALL).unwrap();
    let pool = fixture.dma.pool::<u64>(4, RW).unwrap();
    let block = pool.take().unwrap();
    drop((pool, device));
    block.write(5).unwrap();
    assert_eq!(block.read(), Ok(5));
    drop(block);
    fixture.ends_clean();
}
