//! How many kernel calls a large guest costs.

use spapr_iommu::Group;
use spapr_iommu::addr::{GuestAddr, GuestRange, PageShift};
use spapr_iommu::guest::{GuestIommu, GuestMemory, Liobn, Phb, PhbConfig, RtasCall, Slot, Slots};
use spapr_iommu::host::{Host, Memory};
use spapr_iommu::model::{Model, Recording};
use spapr_iommu::registry::Registry;
use std::sync::Arc;

const RAM: u64 = 64 << 30;
const PAGE: PageShift = PageShift::P64K;
/// Number of entries in a list.
const ENTRIES: u64 = 512;
/// Address of the guest's list.
const LIST: u64 = 0x5_0000;
const BUID: u64 = 0x0800_0000_2000_0000;
/// The kernel does not reschedule within a MAP, so the library sends at most this many TCEs at
/// once.
const MAX_AT_ONCE: u64 = 256 << 10;

/// A guest with 64 GiB of RAM and a dynamic window of that size; none of the memory is touched.
struct Guest {
    host: Arc<Recording<Arc<Model>>>,
    memory: Arc<Slots>,
    iommu: GuestIommu,
    phb: Arc<Phb>,
    liobn: u64,
    start: u64,
}

impl Guest {
    /// Creates a window of 64K pages while `groups` groups are attached.
    fn new(groups: u32) -> Self {
        let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()).with_groups(2));
        let host = Arc::new(Recording::new(Arc::clone(&model)));
        let registry = Registry::new(Arc::clone(&host) as Arc<dyn Host>);
        let memory = Arc::new(Slots::new());
        let user = model.allocate(RAM, PageShift::P64K).unwrap().start();
        let slot = Slot { guest: GuestRange::new(GuestAddr(0), RAM).unwrap(), user };
        // SAFETY: memory of the model, which is not this process's.
        unsafe { memory.insert_raw(slot, model) }.unwrap();
        let iommu = GuestIommu::new(&registry, Arc::clone(&memory) as Arc<dyn GuestMemory>);
        iommu.add_memory().unwrap();
        let phb = iommu.add_phb(PhbConfig::new(BUID, Liobn(0x8000_0000)).unwrap()).unwrap();
        (0..groups).for_each(|group| phb.attach(Group(group)).unwrap());
        let args = [0, (BUID >> 32) as u32, BUID as u32, PAGE.get(), RAM.trailing_zeros()];
        let mut rets = [0; 4];
        iommu.rtas(RtasCall::CreatePeDmaWindow, &args, &mut rets).unwrap();
        let [_, liobn, high, low] = rets;
        host.take();
        let (liobn, start) = (u64::from(liobn), u64::from(high) << 32 | u64::from(low));
        Self { host, memory, iommu, phb, liobn, start }
    }

    /// Puts entries `first..first + 512`; entry n leads to page `page(n)`. Returns the number of
    /// TCEs.
    fn put(&self, first: u64, page: impl Fn(u64) -> u64) -> u64 {
        let list: Vec<u8> =
            (first..first + ENTRIES).flat_map(|entry| (page(entry) << PAGE.get() | 3).to_be_bytes()).collect();
        self.memory.write(GuestAddr(LIST), &list).unwrap();
        let ioba = self.start + (first << PAGE.get());
        self.iommu.h_put_tce_indirect(Liobn(self.liobn as u32), ioba, LIST, ENTRIES).unwrap();
        ENTRIES
    }

    /// Maps all of RAM in order.
    fn put_all(&self) -> u64 {
        (0..RAM >> PAGE.get()).step_by(ENTRIES as usize).map(|first| self.put(first, |entry| entry)).sum()
    }

    /// Returns the MAP calls since the last time.
    fn maps(&self) -> usize {
        let maps = self.host.count("VFIO_IOMMU_MAP_DMA");
        self.host.take();
        maps
    }
}

#[test]
fn a_guest_of_64_gib_costs_a_map_per_list() {
    let guest = Guest::new(1);
    let tces = guest.put_all();
    assert_eq!(tces, 1_048_576, "QEMU without acceleration sends one MAP for each");
    assert_eq!(guest.maps(), 2048);
}

#[test]
fn a_container_that_joins_gets_one_map_per_run() {
    let pieces = (RAM >> PAGE.get()).div_ceil(MAX_AT_ONCE) as usize;
    // Alongside another window, and as the first.
    for groups in [1, 0] {
        let guest = Guest::new(groups);
        guest.put_all();
        guest.maps();
        guest.phb.attach(Group(groups)).unwrap();
        assert_eq!(guest.maps(), pieces, "one run, cut only where a MAP would keep the processor too long");
    }
}

#[test]
fn runs_are_as_long_as_the_guest_makes_them_whatever_lists_they_came_in() {
    for groups in [1, 0] {
        let guest = Guest::new(groups);
        // Three runs: 2048 entries, a hole of 512, 1024 entries that lead elsewhere, and 512 more
        // that continue neither.
        for first in (0..2048).step_by(512) {
            guest.put(first, |entry| entry);
        }
        for first in [2560, 3072] {
            guest.put(first, |entry| entry + 100);
        }
        guest.put(3584, |entry| entry);
        assert_eq!(guest.maps(), if groups == 0 { 0 } else { 7 });
        guest.phb.attach(Group(groups)).unwrap();
        assert_eq!(guest.maps(), 3);
    }
}
