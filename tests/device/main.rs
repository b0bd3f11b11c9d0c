//! Devices for drivers, on the model: what drivers encounter, including wrong use. Each test has an
//! open `edu` device with memory that it can reach.

mod access;
mod capabilities;
mod e1000e;
mod eeh;
mod interrupts;
mod nvme;
mod open;
mod own;

use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr, UserRange};
use spapr_iommu::device::{Bar, Device, Endian};
use spapr_iommu::host::{Host, Memory};
use spapr_iommu::model::Model;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::AddressSpace;
use spapr_iommu_tests::by_address::ByAddress;
use std::sync::Arc;

pub(crate) const ADDRESS: &str = "0000:00:00.0";
/// The bus address at which memory is mapped.
pub(crate) const AT: u64 = 0x10000;
const SIZE: u64 = 0x20000;
const BUFFER: u64 = 0x40000;

pub(crate) struct Fixture {
    // Dropped in this order.
    pub(crate) bar: Bar,
    pub(crate) device: Device,
    pub(crate) lease: Lease,
    pub(crate) memory: UserRange,
    pub(crate) space: AddressSpace,
    pub(crate) model: Arc<Model>,
}

pub(crate) fn space(model: Model) -> (Arc<Model>, AddressSpace) {
    let model = Arc::new(model);
    let space = AddressSpace::new(&Registry::new(model.clone()));
    space.attach(Group(0)).unwrap();
    (model, space)
}

pub(crate) fn model(preset: &str) -> Model {
    Model::new(preset.parse().unwrap()).panic_on_violation()
}

impl Fixture {
    pub(crate) fn new(preset: &str) -> Self {
        Self::with(model(preset), Permission::ReadWrite)
    }

    pub(crate) fn with(model: Model, permission: Permission) -> Self {
        let (model, space) = space(model);
        let memory = model.allocate(SIZE, model.page_shift()).unwrap();
        let lease = space.registry().lease(memory).unwrap();
        space.map(IovaRange::new(Iova(AT), SIZE).unwrap(), memory.start(), permission).unwrap();
        let device = Device::open(&space, Group(0), ADDRESS.parse().unwrap()).unwrap();
        let bar = device.bar(0, Endian::Big).unwrap();
        Self { bar, device, lease, memory, space, model }
    }

    pub(crate) fn put(&self, offset: u64, bytes: &[u8]) {
        self.model.write(UserAddr(self.memory.start().0 + offset), bytes).unwrap();
    }

    pub(crate) fn get(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.model.read(UserAddr(self.memory.start().0 + offset), &mut bytes).unwrap();
        bytes
    }

    /// Has the device copy `count` bytes of memory through its buffer.
    pub(crate) fn copy(&self, from: u64, to: u64, count: u64) {
        copy(&self.bar, from, to, count);
    }

    /// Returns whether the device is still moving memory.
    pub(crate) fn moves(&self) -> bool {
        self.put(0, b"moved");
        self.put(0x100, &[0; 5]);
        self.copy(0, 0x100, 5);
        self.get(0x100, 5) == b"moved"
    }
}

pub(crate) fn copy(bar: &Bar, from: u64, to: u64, count: u64) {
    for (source, destination, command) in [(AT + from, BUFFER, 1u64), (BUFFER, AT + to, 3)] {
        for (register, value) in [(0x80, source), (0x88, destination), (0x90, count), (0x98, command)] {
            bar.write(register, value).unwrap();
        }
    }
}
