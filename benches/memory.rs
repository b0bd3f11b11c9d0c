//! Measures bytes of memory per live map, whatever its length, and allocations of a map and unmap
//! in steady state; bytes per TCE of a guest's table, and allocations of a guest's lists in steady
//! state.
//!
//! `cargo bench --bench memory`

#[path = "measure/null.rs"]
mod null;

use dhat::{HeapStats, Profiler};
use null::Null;
use spapr_iommu::Group;
use spapr_iommu::addr::{Bytes, GuestAddr, Iova, IovaRange, PageShift, UserAddr, UserRange};
use spapr_iommu::guest::{GuestIommu, GuestMemory, Liobn, PhbConfig, Slots};
use spapr_iommu::host::Host;
use spapr_iommu::model::Model;
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
        space.attach(Group(0))?;
        let size = 2 * COUNT * len;
        // SAFETY: addresses of a model, which touches no memory.
        let _lease = unsafe { registry.register_raw(UserRange::new(UserAddr(USER), size)?) }?;
        let request = WindowRequest::bytes(size).page(PageShift::P4K);
        let start = space.create_window(&request)?.range.start().0;
        // In reverse order in user memory, so that neighbours do not merge.
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
    guest_tables()?;
    guest_lists()
}

/// Measures a guest's largest possible window, in which TCEs are set by lists of 512.
fn guest_tables() -> Result<(), Box<dyn Error>> {
    let model = Arc::new(Model::new("powernv9-4k".parse()?));
    let slots = Arc::new(Slots::new());
    slots.insert(GuestAddr(0), &model.share(64 << 20, PageShift::P4K)?)?;
    let iommu = GuestIommu::new(&Registry::new(model), slots.clone());
    iommu.add_memory()?;
    let phb = iommu.add_phb(PhbConfig::new(1, Liobn(1))?.with_table_memory(64 << 20))?;
    let list: Vec<u8> = (0..512_u64).flat_map(|n| (n << 12 | 3).to_be_bytes()).collect();
    slots.write(GuestAddr(0), &list)?;
    println!("\na guest's window of 2^31 TCEs");
    println!("{:>12} {:>14} {:>14}", "touched", "bytes", "bytes per TCE");
    let before = HeapStats::get().curr_bytes;
    let table = phb.create_window(12, 43)?;
    let mut done = 0_u64;
    for touched in [0, 1 << 18, 1 << 20, 1 << 22] {
        while done < touched {
            iommu.h_put_tce_indirect(table.liobn(), table.window().start().0 + (done << 12), 0, 512)?;
            done += 512;
        }
        let bytes = HeapStats::get().curr_bytes - before;
        println!("{touched:>12} {bytes:>14} {:>14.2}", bytes as f64 / touched.max(1) as f64);
    }
    Ok(())
}

/// Measures lists of 512 TCEs that are set and cleared, with a device whose MAP and UNMAP return at
/// once.
fn guest_lists() -> Result<(), Box<dyn Error>> {
    const ROUNDS: u64 = 1000;
    let slots = Arc::new(Slots::new());
    slots.insert(GuestAddr(0), &Model::new("powernv9-4k".parse()?).share(64 << 20, PageShift::P4K)?)?;
    let host = Arc::new(Null(Model::new("powernv9-4k".parse()?).with_open_memory()));
    let iommu = GuestIommu::new(&Registry::new(host), slots.clone());
    iommu.add_memory()?;
    let liobn = Liobn(1);
    iommu.add_phb(PhbConfig::new(1, liobn)?)?.attach(Group(0))?;
    println!("\na guest's lists of 512 TCEs, each set and cleared {ROUNDS} times");
    println!("{:>12} {:>26}", "list", "allocations per put+stuff");
    let contiguous = |n: u64| n << 12 | 3;
    let scattered = |n: u64| (2 * (600 - n)) << 12 | 3;
    let mixed = |n: u64| if n.is_multiple_of(3) { 0 } else { scattered(n) };
    let lists: [(&str, &dyn Fn(u64) -> u64); 3] =
        [("contiguous", &contiguous), ("scattered", &scattered), ("mixed", &mixed)];
    for (number, (name, tce)) in (0..).zip(lists) {
        let list: Vec<u8> = (0..512).flat_map(|n| tce(n).to_be_bytes()).collect();
        let at = number << 12;
        slots.write(GuestAddr(at), &list)?;
        let put_and_stuff = || {
            iommu.h_put_tce_indirect(liobn, 0, at, 512)?;
            iommu.h_stuff_tce(liobn, 0, 0, 512)
        };
        put_and_stuff()?;
        let before = HeapStats::get().total_blocks;
        (0..ROUNDS).try_for_each(|_| put_and_stuff())?;
        let blocks = HeapStats::get().total_blocks - before;
        println!("{name:>12} {:>26.3}", blocks as f64 / ROUNDS as f64);
    }
    Ok(())
}
