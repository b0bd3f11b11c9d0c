//! Bytes of memory per live map, whatever its length, and allocations of a map and unmap in steady state.
//!
//! `cargo bench --bench memory`

use dhat::{HeapStats, Profiler};
use spapr_iommu::addr::{Bytes, Iova, IovaRange, PageShift, UserAddr, UserRange};
use spapr_iommu::host::model::Model;
use spapr_iommu::host::null::Null;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::window::WindowRequest;
use std::error::Error;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

const COUNT: u64 = 10_000;
const USER: u64 = 1 << 40;

fn main() -> Result<(), Box<dyn Error>> {
    let _profiler = Profiler::builder().testing().build();
    println!("{COUNT} maps, none continuing another");
    println!("{:>12} {:>14} {:>28}", "length", "bytes per map", "allocations per map+unmap");
    for len in [4 << 10, 64 << 10, 1 << 20, 16 << 20] {
        let host = Arc::new(Null(Model::new("powernv9-4k".parse()?).with_open_memory()));
        let registry = Registry::new(host);
        let space = AddressSpace::new(&registry);
        space.attach(0)?;
        let size = 2 * COUNT * len;
        let _lease = registry.register(UserRange::new(UserAddr(USER), size)?)?;
        let request = WindowRequest::bytes(size).page(PageShift::P4K);
        let start = space.create_window(&request)?.range.start().0;
        // Backwards in user memory, so that neighbours do not merge.
        let user = |i: u64| UserAddr(USER + (2 * COUNT - 1 - i) * len);
        let iova = |i: u64| IovaRange::new(Iova(start + i * len), len);
        let before = HeapStats::get().curr_bytes;
        for i in 0..COUNT {
            space.map(iova(2 * i)?, user(2 * i), Permission::ReadWrite)?;
        }
        let bytes = HeapStats::get().curr_bytes - before;
        let before = HeapStats::get().total_blocks;
        for i in 0..COUNT {
            let odd = 2 * ((i * 7919) % COUNT) + 1;
            space.map(iova(odd)?, user(odd), Permission::ReadWrite)?;
            space.unmap(iova(odd)?)?;
        }
        let blocks = HeapStats::get().total_blocks - before;
        let per_map = |total: f64| total / COUNT as f64;
        println!("{:>12} {:>14.1} {:>28.4}", Bytes(len), per_map(bytes as f64), per_map(blocks as f64));
    }
    Ok(())
}
