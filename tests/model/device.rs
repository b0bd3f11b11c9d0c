//! The `edu` device: registers, and DMA through the tables.

use super::*;
use spapr_iommu::Group;
use spapr_iommu::addr::{UserAddr, UserRange};
use spapr_iommu::host::{Call, Errno, Fd, Host, Memory, Node, Region};
use spapr_iommu::uapi::spapr::TCE_V2_IOMMU;
use spapr_iommu::uapi::{eeh, vfio};
use spapr_iommu_tests::by_address::RunCall;

const BUFFER: u64 = 0x40000;

struct Edu {
    fd: Fd,
    config: Box<dyn Region>,
    bar: Box<dyn Region>,
}

impl Edu {
    fn open(b: &Fixture, group: usize, name: &str) -> Self {
        let fd = b.model.open(Node::Device { group: b.groups[group], name }).unwrap();
        let config = b.model.region(fd, vfio::PCI_CONFIG_REGION_INDEX).unwrap();
        let bar = b.model.region(fd, vfio::PCI_BAR0_REGION_INDEX).unwrap();
        config.write(4, &[6, 0]).unwrap();
        Self { fd, config, bar }
    }

    fn set(&self, register: u64, value: u64) {
        self.bar.write(register, &value.to_be_bytes()).unwrap();
    }

    fn transfer(&self, source: u64, destination: u64, count: u64, command: u64) {
        self.set(0x80, source);
        self.set(0x88, destination);
        self.set(0x90, count);
        self.set(0x98, command);
    }

    /// Copies `count` bytes of bus memory through the device's buffer.
    fn copy(&self, from: u64, to: u64, count: u64) {
        self.transfer(from, BUFFER, count, 1);
        self.transfer(BUFFER, to, count, 3);
    }
}

fn text(b: &Fixture, at: UserAddr, len: usize) -> Vec<u8> {
    let mut bytes = vec![0xff; len];
    b.model.read(at, &mut bytes).unwrap();
    bytes
}

/// Returns memory with `data` at its start, all of it mapped at bus address 0.
fn mapped(b: &Fixture, data: &[u8]) -> UserRange {
    let memory = b.registered(0x20000);
    assert_eq!(b.map(memory.start(), 0, 0x20000), OK);
    b.model.write(memory.start(), data).unwrap();
    memory
}

const DEVICE: &str = "0000:00:00.0";

#[test]
fn a_device_describes_its_regions() {
    let b = fixture("powernv9");
    let edu = Edu::open(&b, 0, DEVICE);
    let mut call = Call::DeviceGetInfo(vfio::DeviceInfo { argsz: 24, ..Default::default() });
    assert_eq!(b.model.run_call(edu.fd, &mut call), OK);
    let Call::DeviceGetInfo(info) = call else { unreachable!() };
    assert_eq!((info.flags, info.num_regions, info.num_irqs), (3, 9, 5));
    let size = |index| {
        let mut call = Call::DeviceGetRegionInfo(vfio::RegionInfo { argsz: 32, index, ..Default::default() });
        b.model.run_call(edu.fd, &mut call)?;
        let Call::DeviceGetRegionInfo(info) = call else { unreachable!() };
        Ok(info.size)
    };
    assert_eq!([0, 1, 7, 8].map(size), [Ok(1 << 20), Ok(0), Ok(256), Err(Errno::EINVAL)]);
    assert_eq!((edu.bar.size(), edu.config.size()), (1 << 20, 256));
    assert_eq!(b.model.region(edu.fd, 1).err(), Some(Errno::ENXIO));
}

#[test]
fn registers_are_big_endian_and_configuration_is_little() {
    let b = fixture("powernv9");
    let edu = Edu::open(&b, 0, DEVICE);
    let (mut id, mut config) = ([0; 4], [0; 12]);
    edu.bar.read(0, &mut id).unwrap();
    edu.config.read(0, &mut config).unwrap();
    assert_eq!(id, [1, 0, 0, 0xed]);
    assert_eq!(config, [0x34, 0x12, 0xe8, 0x11, 6, 0, 0x10, 0, 0x10, 0, 0, 0xff]);
    let mut capability = [0; 4];
    edu.config.read(0x40, &mut capability).unwrap();
    assert_eq!(capability, [5, 0, 0x80, 0]);
    edu.bar.write(4, &[0, 0, 0, 5]).unwrap();
    edu.bar.read(4, &mut id).unwrap();
    assert_eq!(id, [0xff, 0xff, 0xff, 0xfa], "liveness is the complement");
}

#[test]
fn the_bar_answers_only_with_memory_enabled() {
    let b = fixture("powernv9");
    let edu = Edu::open(&b, 0, DEVICE);
    edu.config.write(4, &[0]).unwrap();
    assert_eq!((edu.bar.read(0, &mut [0; 4]), edu.bar.write(4, &[0; 4])), (Err(Errno::EIO), Err(Errno::EIO)));
}

#[test]
fn interrupts_stay_until_they_are_acknowledged() {
    let b = fixture("powernv9");
    let edu = Edu::open(&b, 0, DEVICE);
    let read = |register| {
        let mut value = [0; 4];
        edu.bar.read(register, &mut value).map(|()| u32::from_be_bytes(value)).unwrap()
    };
    edu.bar.write(0x20, &[0xff; 4]).unwrap();
    edu.bar.write(0x08, &5u32.to_be_bytes()).unwrap();
    assert_eq!([0x08, 0x20, 0x24].map(read), [120, 0x80, 1]);
    edu.set(0x98, 5);
    edu.bar.write(0x60, &6u32.to_be_bytes()).unwrap();
    assert_eq!(read(0x24), 0x107);
    edu.bar.write(0x64, &0x107u32.to_be_bytes()).unwrap();
    assert_eq!(read(0x24), 0);
}

#[test]
fn a_transfer_stays_in_the_buffer() {
    let b = fixture("powernv9");
    let memory = mapped(&b, &[7; 0x2000]);
    let edu = Edu::open(&b, 0, DEVICE);
    // Past its end and before its start, nothing moves.
    for device in [BUFFER + 97, BUFFER - 1, 0] {
        edu.transfer(0, device, 4000, 1);
        edu.transfer(BUFFER, 0x10000, 4096, 3);
        assert_eq!(text(&b, at(memory, 0x10000), 4096), [0; 4096], "{device:#x}");
    }
    edu.transfer(0, BUFFER + 96, 4000, 1);
    edu.transfer(BUFFER, 0x10000, 4096, 3);
    assert_eq!(text(&b, at(memory, 0x10000), 4096), [[0; 96].as_slice(), &[7; 4000]].concat());
}

#[test]
fn a_device_reads_and_writes_what_is_mapped() {
    for preset in ["powernv8-4k", "powernv9", "pseries", "pseries-7.2"] {
        let b = fixture(preset);
        let memory = mapped(&b, b"over the bus");
        let edu = Edu::open(&b, 0, DEVICE);
        edu.copy(0, 0xfffa, 12);
        assert_eq!(text(&b, at(memory, 0xfffa), 12), b"over the bus", "{preset}");
    }
}

#[test]
fn a_transfer_over_a_gap_reads_zeros_and_drops_writes() {
    let b = Fixture::on(model("powernv9").without_freezing(), &[0], TCE_V2_IOMMU);
    let memory = mapped(&b, &[7; 0x3000]);
    assert_eq!(b.unmap(0x1000, 0x1000), OK);
    let edu = Edu::open(&b, 0, DEVICE);
    edu.copy(0xffe, 0x4000, 4);
    assert_eq!(text(&b, at(memory, 0x4000), 4), [7, 7, 0, 0]);
    edu.copy(0x4000, 0x1ffe, 4);
    assert_eq!(text(&b, at(memory, 0x1ffe), 4), [7, 7, 0, 0]);
    edu.transfer(BUFFER, u64::MAX - 1, 4, 3);
}

#[test]
fn permissions_are_the_tces() {
    for (preset, read_back) in [("powernv9", 7), ("pseries", 0)] {
        let b = fixture(preset);
        let memory = mapped(&b, &[7; 0x3000]);
        let map = |flags, iova| {
            let args = vfio::DmaMap { argsz: 32, flags, vaddr: memory.start().0 + iova, iova, size: 0x1000 };
            assert_eq!(b.call(Call::MapDma(args)), OK);
        };
        map(vfio::DMA_MAP_FLAG_WRITE, 0x1000);
        map(vfio::DMA_MAP_FLAG_READ, 0x2000);
        let edu = Edu::open(&b, 0, DEVICE);
        edu.copy(0x1000, 0x8000, 1);
        assert_eq!(text(&b, at(memory, 0x8000), 1), [read_back], "{preset}");
        edu.copy(0xf000, 0x2000, 1);
        assert_eq!(text(&b, at(memory, 0x2000), 1), [7], "a read-only page keeps its content");
    }
}

#[test]
fn without_bus_mastering_nothing_moves() {
    let b = fixture("powernv9");
    let memory = mapped(&b, b"x");
    let edu = Edu::open(&b, 0, DEVICE);
    edu.config.write(4, &[2, 0]).unwrap();
    edu.copy(0, 0x1000, 1);
    assert_eq!(text(&b, at(memory, 0x1000), 1), [0]);
}

#[test]
fn a_device_sees_the_old_pages_of_a_region() {
    let b = fixture("pseries");
    let memory = mapped(&b, b"stale");
    b.model.free(memory).unwrap();
    assert_eq!(b.memory(0x20000), memory);
    b.model.write(memory.start(), b"fresh").unwrap();
    // Memory that was not replaced shows what the device really reads.
    let seen = b.registered(0x10000);
    assert_eq!(b.map(seen.start(), 0x100000, 0x10000), OK);
    let edu = Edu::open(&b, 0, DEVICE);
    edu.copy(0, 0x100000, 5);
    assert_eq!(text(&b, seen.start(), 5), b"stale");
    edu.copy(0x100000, 4, 5);
    assert_eq!(text(&b, memory.start(), 5), b"fresh", "and it writes there, too");
}

#[test]
fn the_old_mappings_under_a_failed_map_are_gone() {
    let b = fixture("pseries");
    let memory = mapped(&b, &[7; 0x8000]);
    let other = b.memory(0x20000);
    assert_eq!(b.register(user(other.start().0, 0x10000)), OK);
    assert_eq!(b.map(at(other, 0xc000), 0, 0x8000), Err(Errno::EINVAL));
    let edu = Edu::open(&b, 0, DEVICE);
    edu.copy(0x3fff, 0x8000, 2);
    assert_eq!(text(&b, at(memory, 0x8000), 2), [0, 7]);
}

#[test]
fn every_group_of_a_container_sees_the_same_windows() {
    let b = Fixture::on(model("powernv9").with_devices(Group(1), 2), &[0, 1], 7);
    let memory = mapped(&b, b"shared");
    let edu = Edu::open(&b, 1, "0001:00:01.0");
    edu.copy(0, 0x1000, 6);
    assert_eq!(text(&b, at(memory, 0x1000), 6), b"shared");
    // Detaching the other one removes it all.
    assert_eq!(b.on_fd(b.groups[0], Call::GroupUnsetContainer), OK);
    edu.copy(0, 0x2000, 6);
    assert_eq!(text(&b, at(memory, 0x2000), 6), [0; 6]);
}

#[test]
fn a_frozen_pe_reads_ones_and_does_no_dma() {
    let b = fixture("powernv9");
    let memory = mapped(&b, b"x");
    let edu = Edu::open(&b, 0, DEVICE);
    edu.transfer(0, BUFFER, 1, 1);
    b.model.set_eeh_state(Group(0), eeh::state::STOPPED);
    let mut id = [0; 4];
    edu.bar.read(0, &mut id).unwrap();
    assert_eq!(id, [0xff; 4]);
    edu.transfer(BUFFER, 0x1000, 1, 3);
    assert_eq!(text(&b, at(memory, 0x1000), 1), [0]);
    b.model.set_eeh_state(Group(0), eeh::state::NORMAL);
    edu.transfer(BUFFER, 0x1000, 1, 3);
    assert_eq!(text(&b, at(memory, 0x1000), 1), b"x");
}

#[test]
fn a_region_holds_the_device_and_its_group() {
    let b = fixture("powernv9");
    let memory = mapped(&b, b"held");
    let edu = Edu::open(&b, 0, DEVICE);
    b.model.close(edu.fd);
    assert_eq!(b.on_fd(b.groups[0], Call::GroupUnsetContainer), Err(Errno::EBUSY));
    edu.copy(0, 0x1000, 4);
    assert_eq!(text(&b, at(memory, 0x1000), 4), b"held");
    drop(edu);
    let fd = b.model.open(Node::Device { group: b.groups[0], name: DEVICE }).unwrap();
    let bar = b.model.region(fd, vfio::PCI_BAR0_REGION_INDEX).unwrap();
    assert_eq!(bar.read(0, &mut [0; 4]), Err(Errno::EIO), "opened anew it is disabled again");
    b.model.exit();
    assert_eq!(bar.read(0, &mut [0; 4]), Err(Errno::EBADF));
}

#[test]
fn a_reset_clears_registers_where_the_machine_can_reset() {
    for (preset, expected) in [("powernv9", OK), ("pseries", Err(Errno::EINVAL))] {
        let b = fixture(preset);
        let edu = Edu::open(&b, 0, DEVICE);
        edu.set(0x80, 7);
        assert_eq!(b.on_fd(edu.fd, Call::DeviceReset), expected);
        let mut source = [0; 8];
        edu.bar.read(0x80, &mut source).unwrap();
        assert_eq!(u64::from_be_bytes(source), if expected == OK { 0 } else { 7 });
    }
}

#[test]
fn access_ends_with_the_region() {
    let b = fixture("powernv9");
    let edu = Edu::open(&b, 0, DEVICE);
    assert_eq!(edu.bar.read((1 << 20) - 2, &mut [0; 4]), Err(Errno::EINVAL));
    assert_eq!(edu.config.write(u64::MAX, &[0]), Err(Errno::EINVAL));
}
