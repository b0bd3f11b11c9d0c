//! With rust-vmm's `vm-memory`: its memory is registered, its accesses go through the guest's tables.

use spapr_iommu::addr::{UserAddr, UserRange};
use spapr_iommu::guest::{GuestIommu, PhbConfig, PhbIommu, RemoveMemoryError, VmMemory};
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

/// A model with group 0 that knows the memory the test has really mapped.
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
    let iommu = GuestIommu::new(&registry, Arc::new(VmMemory(atomic.clone())));
    iommu.add_memory().unwrap();
    let phb = iommu.add_phb(PhbConfig::new(BUID, LIOBN).unwrap()).unwrap();
    phb.attach(0).unwrap();
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
    let iommu = GuestIommu::new(&registry, Arc::new(VmMemory(memory.clone())));
    iommu.add_memory().unwrap();
    let phb = iommu.add_phb(PhbConfig::new(BUID, LIOBN).unwrap()).unwrap();
    // Pages in the reverse order, the third for reading only.
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
    // No right to write, nothing mapped behind, nothing at the end of the bus.
    assert!(device.write_slice(&data, GuestAddress(0x2000)).is_err());
    assert!(device.read_slice(&mut data, GuestAddress(0x2ffe)).is_err());
    assert!(device.read_slice(&mut data, GuestAddress(u64::MAX - 1)).is_err());
    // What the guest takes back is gone at once.
    iommu.h_put_tce(LIOBN, 0, 0).unwrap();
    assert!(device.read_slice(&mut data, GuestAddress(0)).is_err());
}
