//! Several threads that allocate and drop memory at once.

use crate::{FIRST, Fixture, RW};
use spapr_iommu::Group;
use spapr_iommu::dma::{Block, Buffer, Dma, DmaConfig, DmaMask, DmaMemory, Pool, StreamMap};
use std::thread;

#[test]
fn memory_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Dma>();
    shared::<Buffer<u64>>();
    shared::<(Pool<u64>, Block<u64>)>();
    shared::<(DmaMemory, StreamMap)>();
}

#[test]
fn threads_that_take_and_drop_memory_meet_no_trap() {
    let fixture = Fixture::new("pseries-64k");
    let device = fixture.dma.open(FIRST.parse().unwrap(), DmaMask::ALL).unwrap();
    let pool = fixture.dma.pool::<[u8; 512]>(8, RW).unwrap();
    let memory = fixture.dma.memory(1 << 20).unwrap();
    thread::scope(|scope| {
        for thread in 0..4u8 {
            let (dma, pool, memory) = (&fixture.dma, &pool, &memory);
            scope.spawn(move || {
                let mut rng = fastrand::Rng::with_seed(thread.into());
                let mut small = Vec::new();
                for _ in 0..200 {
                    match rng.u8(..5) {
                        // Within a page of which other threads have parts.
                        0 | 1 => small.push(dma.buffer::<u8>(rng.usize(1..8000), RW).unwrap()),
                        2 => drop(dma.buffer::<u8>(rng.usize(40_000..200_000), RW).unwrap()),
                        3 => drop(memory.map(rng.u64(0..16) << 16, 1 << 16, RW).unwrap()),
                        _ => {
                            let block = pool.take().unwrap();
                            block.write([thread; 512]).unwrap();
                            assert_eq!(block.read().unwrap(), [thread; 512], "no other thread has it");
                        }
                    }
                    if rng.u8(..8) == 0 {
                        small.clear();
                    }
                    small.iter().for_each(|buffer: &Buffer<u8>| buffer.write(0, thread).unwrap());
                    assert!(small.iter().all(|buffer| buffer.read(0) == Ok(thread)));
                }
            });
        }
    });
    drop((pool, memory, device));
    fixture.ends_clean();
}

/// The second thread waits until the first has attached the group, and finds its windows complete.
#[test]
fn threads_open_devices_of_one_group_at_once() {
    let config = DmaConfig::default().without_default_window();
    for _ in 0..50 {
        let fixture = Fixture::with("powernv9-64k", config, |model| model.with_devices(Group(0), 4));
        let barrier = std::sync::Barrier::new(4);
        let devices: Vec<_> = thread::scope(|scope| {
            let open = |index: u8| {
                let (dma, barrier) = (&fixture.dma, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    dma.open(format!("0000:00:{index:02x}.0").parse().unwrap(), DmaMask::ALL)
                })
            };
            let threads: Vec<_> = (0..4).map(open).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
        });
        let status = fixture.dma.space().status();
        assert_eq!((status.groups.len(), status.windows.len()), (1, 1));
        drop(devices);
        fixture.ends_clean();
    }
}
