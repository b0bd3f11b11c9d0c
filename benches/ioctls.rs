//! Maps and unmaps of 256 MiB through the library, beside a bare loop of the same ioctls, on a real kernel.
//!
//! `ppc64/run --machine pseries --kernel 6.12-64k -- ioctls`

#[path = "measure/mod.rs"]
mod measure;

use measure::{Table, median_ns};
use spapr_iommu::addr::{Bytes, Iova, IovaRange, UserAddr, UserRange};
use spapr_iommu::host::recording::Recording;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Fd, Host, Memory, Node, calls};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::uapi::spapr::TCE_V2_IOMMU;
use spapr_iommu::window::{Window, WindowRequest};
use std::error::Error;
use std::sync::Arc;

const RAM: u64 = 256 << 20;
/// A buffer, in the scattered case.
const BUFFER: u64 = 64 << 10;
const RW: Permission = Permission::ReadWrite;

/// A container without the library: the same ioctls, one after the other.
struct Bare {
    host: Arc<Vfio>,
    container: Fd,
}

impl Bare {
    fn new(host: &Arc<Vfio>, group: u32, ram: UserRange, window: &Window) -> Result<Self, Box<dyn Error>> {
        let container = host.open(Node::Container)?;
        let group = host.open(Node::Group(group))?;
        calls::group_set_container(host.as_ref(), group, container)?;
        calls::set_iommu(host.as_ref(), container, TCE_V2_IOMMU)?;
        calls::register_memory(host.as_ref(), container, ram)?;
        calls::tce_create(host.as_ref(), container, window.page, window.range.len(), window.levels)?;
        Ok(Self { host: Arc::clone(host), container })
    }

    fn map(&self, iova: IovaRange, user: UserAddr) {
        calls::map_dma(self.host.as_ref(), self.container, user, iova, RW).expect("MAP");
    }

    fn unmap(&self, iova: IovaRange) {
        calls::unmap_dma(self.host.as_ref(), self.container, iova).expect("UNMAP");
    }
}

/// Buffers of `size` that cover the memory; no two continue each other.
fn scattered(window: &Window, ram: UserRange, size: u64) -> Vec<(IovaRange, UserAddr)> {
    let count = ram.len() / size;
    let place = |i: u64| {
        let iova = IovaRange::new(Iova(window.range.start().0 + i * size), size).expect("in the window");
        (iova, UserAddr(ram.start().0 + (count - 1 - i) * size))
    };
    (0..count).map(place).collect()
}

fn compare(table: &mut Table, what: &str, space: &AddressSpace, bare: &Bare, buffers: &[(IovaRange, UserAddr)]) {
    let (ours, theirs) = median_ns(
        buffers.len(),
        || {
            buffers.iter().for_each(|&(iova, user)| space.map(iova, user, RW).expect("map"));
            buffers.iter().for_each(|&(iova, _)| assert_eq!(space.unmap(iova).expect("unmap"), iova.len()));
        },
        || {
            buffers.iter().for_each(|&(iova, user)| bare.map(iova, user));
            buffers.iter().for_each(|&(iova, _)| bare.unmap(iova));
        },
    );
    table.row(what, ours, theirs);
}

fn main() -> Result<(), Box<dyn Error>> {
    let host = Arc::new(Vfio::new());
    let [ours, theirs] = host.groups().iter().map(|group| group.number).collect::<Vec<_>>()[..] else {
        return Err("two groups are needed".into());
    };
    let ram = host.allocate(RAM, host.page_shift())?;
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    space.attach(ours)?;
    let lease = registry.register(ram)?;
    let window = space.create_window(&WindowRequest::bytes(RAM))?;
    let bare = Bare::new(&host, theirs, ram, &window)?;
    println!("256M of memory, {} pages; map+unmap of a buffer", window.page);
    let mut table = Table::new("buffers", "space", "bare ioctls");
    let small = scattered(&window, ram, BUFFER);
    compare(&mut table, &format!("{} scattered, {} each", small.len(), Bytes(BUFFER)), &space, &bare, &small);
    let whole = scattered(&window, ram, RAM);
    compare(&mut table, "1 contiguous, 256M", &space, &bare, &whole);
    host.close(bare.container);
    drop((space, lease));
    count_calls(ours)
}

/// How many MAPs contiguous memory takes.
fn count_calls(group: u32) -> Result<(), Box<dyn Error>> {
    let host = Arc::new(Recording::new(Vfio::new()));
    let memory = Vfio::new();
    let ram = memory.allocate(RAM, memory.page_shift())?;
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    space.attach(group)?;
    let _lease = registry.register(ram)?;
    let window = space.create_window(&WindowRequest::bytes(RAM))?;
    space.map(IovaRange::new(window.range.start(), RAM)?, ram.start(), RW)?;
    println!("{} contiguous: {} MAP", Bytes(RAM), host.count("VFIO_IOMMU_MAP_DMA"));
    Ok(())
}
