//! With rust-vmm's `vm-memory`: its memory is registered, and its accesses go through the guest's
//! tables.

use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, UserAddr, UserRange};
use spapr_iommu::guest::{GuestIommu, HcallError, PhbConfig, PhbIommu, RemoveMemoryError, VmMemory};
use spapr_iommu::model::{MemoryKind, Model};
use spapr_iommu::registry::Registry;
use spapr_iommu_tests::guest_fixture::{BUID, LIOBN, guest};
use std::sync::Arc;
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    IommuMemory,
};

type Memory = GuestMemoryMmap<()>;

const SIZE: usize = 1 << 20;

/// A model with group 0 that shares the memory that the test has really mapped.
fn model(memory: &Memory) -> Arc<Model> {
    use vm_memory::GuestMemoryBackend;
    let model = Arc::new(Model::new("powernv9-4k".parse().unwrap()));
    for region in memory.iter() {
        let user = region.get_host_address(vm_memory::MemoryRegionAddress(0)).unwrap();
        let range = UserRange::new(UserAddr(user.addr() as u64), region.len()).unwrap();
        model.declare(range, MemoryKind::Ordinary).unwrap();
    }
    model
}

#[test]
fn its_regions_are_guest_ram_and_can_be_plugged() {
    let two = [(GuestAddress(0), SIZE), (GuestAddress(0x100_0000), SIZE)];
    let first = Memory::from_ranges(&two).unwrap();
    let more = Arc::new(GuestRegionMmap::from_range(GuestAddress(0x200_0000), SIZE, None).unwrap());
    let all = first.insert_region(more).unwrap();
    let model = model(&all);
    let registry = Registry::new(model.clone());
    let atomic = GuestMemoryAtomic::new(first);
    let iommu = GuestIommu::new(&registry, Arc::new(VmMemory::new(atomic.clone())));
    iommu.add_memory().unwrap();
    let phb = iommu.add_phb(PhbConfig::new(BUID, LIOBN).unwrap()).unwrap();
    phb.attach(Group(0)).unwrap();
    iommu.h_put_tce(LIOBN, 0, 0x100_0003).unwrap();
    iommu.h_put_tce(LIOBN, 0x1000, 0x200_0003).unwrap_err();
    atomic.lock().unwrap().replace(all);
    iommu.add_memory().unwrap();
    iommu.h_put_tce(LIOBN, 0x1000, 0x200_0003).unwrap();
    let slot = guest(0x200_0000, SIZE as u64);
    assert!(matches!(iommu.remove_memory(slot), Err(RemoveMemoryError::Mapped { .. })));
    iommu.h_stuff_tce(LIOBN, 0, 0, 2).unwrap();
    iommu.remove_memory(slot).unwrap();
    assert_eq!(model.violations(), []);
}

#[test]
fn its_iommu_memory_reads_and_writes_what_the_guest_has_mapped() {
    let memory = Memory::from_ranges(&[(GuestAddress(0), SIZE)]).unwrap();
    let registry = Registry::new(model(&memory));
    let memory = Arc::new(memory);
    let iommu = GuestIommu::new(&registry, Arc::new(VmMemory::new(memory.clone())));
    iommu.add_memory().unwrap();
    let phb = iommu.add_phb(PhbConfig::new(BUID, LIOBN).unwrap()).unwrap();
    // Pages in reverse order, the third for reading only.
    for (tce, number) in [0x5003, 0x4003, 0x3001].into_iter().zip(0..) {
        iommu.h_put_tce(LIOBN, number << 12, tce).unwrap();
    }
    let device = IommuMemory::new(memory.memory().as_ref().clone(), PhbIommu::new(phb), true, ());
    device.write_slice(&[1, 2, 3, 4], GuestAddress(0xffe)).unwrap();
    let mut data = [0; 2];
    memory.read_slice(&mut data, GuestAddress(0x5ffe)).unwrap();
    assert_eq!(data, [1, 2]);
    memory.read_slice(&mut data, GuestAddress(0x4000)).unwrap();
    assert_eq!(data, [3, 4]);
    memory.write_slice(&[7; 4], GuestAddress(0x3000)).unwrap();
    let mut data = [0; 4];
    device.read_slice(&mut data, GuestAddress(0x2000)).unwrap();
    assert_eq!(data, [7; 4]);
    // No permission to write, nothing mapped after it, nothing at the end of the bus.
    assert!(device.write_slice(&data, GuestAddress(0x2000)).is_err());
    assert!(device.read_slice(&mut data, GuestAddress(0x2ffe)).is_err());
    assert!(device.read_slice(&mut data, GuestAddress(u64::MAX - 1)).is_err());
    // What the guest unmaps is gone at once.
    iommu.h_put_tce(LIOBN, 0, 0).unwrap();
    assert!(device.read_slice(&mut data, GuestAddress(0)).is_err());
}

#[test]
fn an_access_goes_by_run_and_is_bounded() {
    use vm_memory::Permissions;
    use vm_memory::iommu::Iommu;
    let memory = Arc::new(Memory::from_ranges(&[(GuestAddress(0), SIZE)]).unwrap());
    let iommu = GuestIommu::new(&Registry::new(model(&memory)), Arc::new(VmMemory::new(memory.clone())));
    iommu.add_memory().unwrap();
    let phb = iommu.add_phb(PhbConfig::new(BUID, LIOBN).unwrap()).unwrap();
    // Pages 2 to 5 in order, then page 9; everything else leads to page 0.
    for (page, number) in [2, 3, 4, 5, 9].into_iter().zip(0..) {
        iommu.h_put_tce(LIOBN, number << 12, page << 12 | 3).unwrap();
    }
    for first in (5..1 << 18).step_by(512) {
        memory.write_slice(&[3_u64.to_be_bytes(); 512].concat(), GuestAddress(0x1_0000)).unwrap();
        let count = (512).min((1 << 18) - first);
        iommu.h_put_tce_indirect(LIOBN, first << 12, 0x1_0000, count).unwrap();
    }
    let device = PhbIommu::new(phb);
    let ranges = |at, len| {
        let found = device.translate(GuestAddress(at), len, Permissions::Read);
        found.map(|found| found.map(|part| (part.base.0, part.length)).collect::<Vec<_>>())
    };
    assert_eq!(ranges(0x10, 0x4ff0).unwrap(), [(0x2010, 0x3ff0), (0x9000, 0x1000)]);
    assert_eq!(ranges(0, 65_536 << 12).unwrap().len(), 2 + 65_536 - 5);
    // A guest may name any length, and that does not cost more.
    for len in [65_537 << 12, usize::MAX] {
        let refused = ranges(0, len).unwrap_err();
        assert!(refused.to_string().contains("more than 65536 TCEs"), "{refused}");
    }
}

#[test]
fn memory_taken_out_without_a_word_takes_no_new_tce() {
    let two = [(GuestAddress(0), SIZE), (GuestAddress(0x100_0000), SIZE)];
    let all = Memory::from_ranges(&two).unwrap();
    let registry = Registry::new(model(&all));
    let (less, _gone) = all.remove_region(GuestAddress(0x100_0000), SIZE as u64).unwrap();
    let atomic = GuestMemoryAtomic::new(all);
    let iommu = GuestIommu::new(&registry, Arc::new(VmMemory::new(atomic.clone())));
    iommu.add_memory().unwrap();
    iommu.add_phb(PhbConfig::new(BUID, LIOBN).unwrap()).unwrap();
    iommu.h_put_tce(LIOBN, 0, 0x100_0003).unwrap();
    atomic.lock().unwrap().replace(less);
    let refused = iommu.h_put_tce(LIOBN, 0x1000, 0x100_0003).unwrap_err();
    assert!(matches!(refused, HcallError::Gone { .. }), "{refused}");
    iommu.h_put_tce(LIOBN, 0x1000, 3).unwrap();
}

#[test]
fn devices_of_a_model_see_the_bytes_of_memory_that_was_lent() {
    let two = [(GuestAddress(0), SIZE), (GuestAddress(0x100_0000), SIZE)];
    let atomic = GuestMemoryAtomic::new(Memory::from_ranges(&two).unwrap());
    let memory = Arc::new(VmMemory::new(atomic.clone()));
    let model = Arc::new(Model::new("powernv9-4k".parse().unwrap()));
    let iommu = GuestIommu::new(&Registry::new(model.clone()), memory.clone());
    // The model sees nothing of this process unless it is shared with it.
    iommu.add_phb(PhbConfig::new(BUID, LIOBN).unwrap()).unwrap().attach(Group(0)).unwrap();
    iommu.add_memory().unwrap_err();
    memory.lend_to(model.as_ref()).unwrap();
    memory.lend_to(model.as_ref()).unwrap();
    iommu.add_memory().unwrap();
    iommu.h_put_tce(LIOBN, 0, 0x100_0003).unwrap();
    atomic.memory().write_slice(b"what is there", GuestAddress(0x100_0010)).unwrap();
    let (mut host, mut emulated) = ([0; 13], [0; 13]);
    model.device_read(model.containers()[0], Iova(0x10), &mut host);
    iommu.phb(BUID).unwrap().device_read(Iova(0x10), &mut emulated).unwrap();
    assert_eq!((&host, &emulated), (b"what is there", b"what is there"));
    assert_eq!(model.violations(), []);
}
