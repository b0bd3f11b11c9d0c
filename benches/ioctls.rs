//! Measures maps and unmaps of 256 MiB through the library, compared with a plain loop of the same
//! ioctls, on a real kernel.
//!
//! `ppc64/run --machine pseries --kernel 6.12-64k -- ioctls`

#[path = "measure/mod.rs"]
mod measure;

use measure::{Table, median_ns_then};
use spapr_iommu::Group;
use spapr_iommu::addr::{Bytes, Iova, IovaRange, UserAddr, UserRange};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Fd, Host, Node, calls};
use spapr_iommu::model::Recording;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::{AddressSpace, MapRequest, Overlap};
use spapr_iommu::uapi::spapr::TCE_V2_IOMMU;
use spapr_iommu::window::{Window, WindowRequest};
use std::error::Error;
use std::sync::Arc;

const RAM: u64 = 256 << 20;
const RW: Permission = Permission::ReadWrite;

/// A container without the library: the same ioctls, one after the other.
struct Bare {
    host: Arc<Vfio>,
    container: Fd,
}

impl Bare {
    fn new(host: &Arc<Vfio>, group: Group, ram: UserRange, window: &Window) -> Result<Self, Box<dyn Error>> {
        let container = host.open(Node::Container)?;
        let group = host.open(Node::Group(group))?;
        calls::group_set_container(host.as_ref(), group, container)?;
        calls::set_iommu(host.as_ref(), container, TCE_V2_IOMMU)?;
        // SAFETY: memory of the host, to which no reference is made, and which is freed last.
        unsafe { calls::register_memory(host.as_ref(), container, ram) }?;
        calls::tce_create(host.as_ref(), container, window.page, window.range.len(), window.levels)?;
        Ok(Self { host: Arc::clone(host), container })
    }

    fn map(&self, iova: IovaRange, user: UserAddr) {
        // SAFETY: as in `new`.
        unsafe { calls::map_dma(self.host.as_ref(), self.container, user, iova, RW) }.expect("MAP");
    }

    fn unmap(&self, iova: IovaRange) {
        calls::unmap_dma(self.host.as_ref(), self.container, iova).expect("UNMAP");
    }
}

/// Returns buffers of `size` that cover the memory; no two continue each other.
fn scattered(window: &Window, ram: UserRange, size: u64) -> Vec<(IovaRange, UserAddr)> {
    let count = ram.len() / size;
    let place = |i: u64| {
        let iova = IovaRange::new(Iova(window.range.start().0 + i * size), size).expect("in the window");
        (iova, UserAddr(ram.start().0 + (count - 1 - i) * size))
    };
    (0..count).map(place).collect()
}

/// Times mapping all buffers; unmaps them again, which is not timed.
fn compare(what: &str, space: &AddressSpace, bare: &Bare, window: &Window, buffers: &[(IovaRange, UserAddr)]) {
    let unmap = || assert_eq!(space.unmap(window.range).expect("unmap"), RAM);
    let bare_unmap = || bare.unmap(window.range);
    let bare_map = || buffers.iter().for_each(|&(iova, user)| bare.map(iova, user));
    let requests: Vec<_> = buffers.iter().map(|&(iova, user)| MapRequest { iova, user, permission: RW }).collect();
    let together = || space.map_all(&requests, Overlap::Refuse).expect("map");
    let (ours, theirs) = median_ns_then(buffers.len(), (together, unmap), (bare_map, bare_unmap));
    Table::row(&format!("{what}, one call"), ours, theirs);
    let each = || requests.iter().for_each(|r| space.map(r.iova, r.user, RW).expect("map"));
    let (ours, theirs) = median_ns_then(buffers.len(), (each, unmap), (bare_map, bare_unmap));
    Table::row(&format!("{what}, a call each"), ours, theirs);
}

fn main() -> Result<(), Box<dyn Error>> {
    let host = Arc::new(Vfio::new());
    let [ours, theirs] = host.groups().iter().map(|group| group.number).collect::<Vec<_>>()[..] else {
        return Err("two groups are needed".into());
    };
    let memory = host.share(RAM, host.page_shift())?;
    let ram = memory.range();
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    space.attach(ours)?;
    let lease = registry.register(&memory)?;
    let window = space.create_window(&WindowRequest::bytes(RAM))?;
    let bare = Bare::new(&host, theirs, ram, &window)?;
    println!("256M of memory, {} pages: nanoseconds to map a buffer", window.page);
    Table::head("buffers", "space", "bare ioctls");
    for size in [64 << 10, 1 << 20, RAM] {
        let buffers = scattered(&window, ram, size);
        compare(&format!("{} of {}", buffers.len(), Bytes(size)), &space, &bare, &window, &buffers);
    }
    host.close(bare.container);
    drop((space, lease));
    count_calls(ours)
}

/// Counts the MAPs for contiguous memory.
fn count_calls(group: Group) -> Result<(), Box<dyn Error>> {
    let host = Arc::new(Recording::new(Vfio::new()));
    let memory = host.share(RAM, host.page_shift())?;
    let registry = Registry::new(host.clone());
    let space = AddressSpace::new(&registry);
    space.attach(group)?;
    let _lease = registry.register(&memory)?;
    let window = space.create_window(&WindowRequest::bytes(RAM))?;
    space.map(IovaRange::new(window.range.start(), RAM)?, memory.range().start(), RW)?;
    println!("{} contiguous: {} MAP", Bytes(RAM), host.count("VFIO_IOMMU_MAP_DMA"));
    Ok(())
}
