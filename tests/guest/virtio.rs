//! With rust-vmm's `virtio-queue`: a queue of an emulated device lies where the guest's TCEs lead,
//! and nowhere else.

use spapr_iommu::guest::{GuestIommu, PhbConfig, PhbIommu, VmMemory};
use spapr_iommu::model::Model;
use spapr_iommu::registry::Registry;
use spapr_iommu_tests::guest_fixture::{BUID, LIOBN};
use std::io::{Read, Write};
use std::sync::Arc;
use virtio_queue::{Error, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, IommuMemory};

/// Bus addresses of the queue's parts, in one page.
const DESCRIPTORS: u64 = 0;
const AVAILABLE: u64 = 0x100;
const USED: u64 = 0x200;

/// Guest addresses of the pages on the bus: the queue, then buffers, in reverse order.
const PAGES: [u64; 3] = [0x5000, 0x9000, 0x7000];
const READ: u64 = 1;
const READ_WRITE: u64 = 3;

struct Machine {
    ram: GuestMemoryMmap<()>,
    iommu: GuestIommu,
    /// What devices see.
    bus: IommuMemory<GuestMemoryMmap<()>, PhbIommu>,
    queue: Queue,
}

impl Machine {
    /// The driver offers one request: it reads 16 bytes across the buffers' pages, and writes 4.
    fn new() -> Self {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let host = Arc::new(Model::new("powernv9-4k".parse().unwrap()));
        let memory = Arc::new(VmMemory::new(Arc::new(ram.clone())));
        memory.lend_to(host.as_ref()).unwrap();
        let iommu = GuestIommu::new(&Registry::new(host), memory);
        iommu.add_memory().unwrap();
        let phb = iommu.add_phb(PhbConfig::new(BUID, LIOBN).unwrap()).unwrap();
        let bus = IommuMemory::new(ram.clone(), PhbIommu::new(phb), true, ());
        let mut queue = Queue::new(8).unwrap();
        queue.set_desc_table_address(Some(DESCRIPTORS as u32), None);
        queue.set_avail_ring_address(Some(AVAILABLE as u32), None);
        queue.set_used_ring_address(Some(USED as u32), None);
        queue.set_ready(true);
        let machine = Self { ram, iommu, bus, queue };
        (0..).zip(PAGES).for_each(|(number, _)| machine.map(number, READ_WRITE));
        let (next, write) = (1u16, 2u16);
        for (number, (at, len, flags)) in (0..).zip([(0x1ff8u64, 16u32, next), (0x2100, 4, write)]) {
            let descriptor = [&at.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &1u16.to_le_bytes()];
            machine.fill(DESCRIPTORS + 16 * number, &descriptor.concat());
        }
        // One request, whose first descriptor is 0.
        machine.fill(AVAILABLE, &[0, 0, 1, 0, 0, 0]);
        machine.ram.write_slice(b"across t", GuestAddress(PAGES[1] + 0xff8)).unwrap();
        machine.ram.write_slice(b"wo pages", GuestAddress(PAGES[2])).unwrap();
        machine
    }

    fn map(&self, page: u64, rights: u64) {
        self.iommu.h_put_tce(LIOBN, page << 12, PAGES[page as usize] | rights).unwrap();
    }

    /// Writes to the queue's page as the driver does.
    fn fill(&self, at: u64, bytes: &[u8]) {
        self.ram.write_slice(bytes, GuestAddress(PAGES[0] + at)).unwrap();
    }

    /// Serves the request as a device does. Returns what it read.
    fn serve(&mut self) -> Result<[u8; 16], Error> {
        let chain = self.queue.iter(&self.bus)?.next().ok_or(Error::InvalidChain)?;
        let head = chain.head_index();
        let mut data = [0; 16];
        let mut reader = chain.clone().reader(&self.bus)?;
        reader.read_exact(&mut data).map_err(|_| Error::InvalidChain)?;
        chain.writer(&self.bus)?.write_all(b"done").map_err(|_| Error::InvalidChain)?;
        self.queue.add_used(&self.bus, head, 4)?;
        Ok(data)
    }

    /// The index of the used ring.
    fn used(&self) -> u16 {
        self.ram.read_obj(GuestAddress(PAGES[0] + USED + 2)).unwrap()
    }
}

#[test]
fn a_request_is_served_through_the_guests_tces() {
    let mut machine = Machine::new();
    assert_eq!(machine.serve().unwrap(), *b"across two pages");
    let mut answer = [0; 4];
    machine.ram.read_slice(&mut answer, GuestAddress(PAGES[2] + 0x100)).unwrap();
    assert_eq!((&answer, machine.used()), (b"done", 1u16.to_le()));
}

#[test]
fn what_the_guest_has_not_mapped_is_not_reached() {
    // The queue, a part of the first buffer.
    for page in [0, 1] {
        let mut machine = Machine::new();
        machine.iommu.h_put_tce(LIOBN, page << 12, 0).unwrap();
        machine.serve().unwrap_err();
        assert_eq!(machine.used(), 0, "{page}");
        machine.map(page, READ_WRITE);
        machine.queue.set_next_avail(0);
        machine.serve().unwrap();
    }
}

#[test]
fn what_the_guest_lets_devices_read_is_not_written() {
    // The queue, the buffer of the answer.
    for page in [0, 2] {
        let mut machine = Machine::new();
        machine.map(page, READ);
        machine.serve().unwrap_err();
        assert_eq!(machine.used(), 0, "{page}");
    }
}
