//! A PCI Express device: capabilities that the model's `edu` lacks, and what a driver may write in
//! them.

use crate::{ADDRESS, model};
use spapr_iommu::Group;
use spapr_iommu::addr::{PageShift, UserRange};
use spapr_iommu::device::{AccessError, Device};
use spapr_iommu::host::{Call, Errno, Extent, Fd, GroupFacts, Host, Memlock, Node, Obstacle, Platform, Region, Shared};
use spapr_iommu::model::Model;
use spapr_iommu::registry::Registry;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::uapi::vfio::{IrqSet, PCI_CONFIG_REGION_INDEX};
use spapr_iommu_tests::by_address::RunCall;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

const SIZE: usize = 4096;

type Bytes = Arc<Mutex<[u8; SIZE]>>;

/// A configuration space that accepts every write.
struct Memory(Bytes);

impl Region for Memory {
    fn size(&self) -> u64 {
        SIZE as u64
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        data.copy_from_slice(&self.0.lock().unwrap()[offset as usize..][..data.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.0.lock().unwrap()[offset as usize..][..data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// The model, with another configuration space for its devices.
#[derive(Debug)]
struct Express {
    model: Model,
    config: Bytes,
}

impl Host for Express {
    fn region(&self, device: Fd, index: u32) -> Result<Box<dyn Region>, Errno> {
        match index {
            PCI_CONFIG_REGION_INDEX => Ok(Box::new(Memory(self.config.clone()))),
            _ => self.model.region(device, index),
        }
    }

    fn open(&self, node: Node<'_>) -> Result<Fd, Errno> {
        self.model.open(node)
    }
    fn close(&self, fd: Fd) {
        self.model.close(fd);
    }
    unsafe fn call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        self.model.run_call(fd, call)
    }
    fn set_irqs(&self, device: Fd, set: IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<i32, Errno> {
        self.model.set_irqs(device, set, eventfds)
    }
    fn platform(&self) -> Option<Platform> {
        self.model.platform()
    }
    fn page_shift(&self) -> PageShift {
        self.model.page_shift()
    }
    fn memlock(&self) -> Result<Memlock, Errno> {
        self.model.memlock()
    }
    fn available_memory(&self) -> Option<u64> {
        self.model.available_memory()
    }
    fn backing(&self, range: UserRange) -> Result<Vec<Extent>, Errno> {
        self.model.backing(range)
    }
    fn groups(&self) -> Vec<GroupFacts> {
        self.model.groups()
    }
    fn share(&self, size: u64, page: PageShift) -> Result<Shared, Errno> {
        self.model.share(size, page)
    }
    fn obstacle(&self, node: Node<'_>) -> Option<Obstacle> {
        self.model.obstacle(node)
    }
}

/// Returns a device with these capabilities, in this order, and its configuration space.
fn with(capabilities: &[(u8, u8)]) -> (Device, Bytes) {
    open(HAS_LIST, capabilities)
}

fn open(status: u8, capabilities: &[(u8, u8)]) -> (Device, Bytes) {
    let mut config = [0; SIZE];
    config[0..4].copy_from_slice(&[0x34, 0x12, 0xe8, 0x11]);
    config[6] = status;
    let mut link = 0x34;
    for &(id, at) in capabilities {
        config[link] = at;
        config[usize::from(at)] = id;
        link = usize::from(at) + 1;
    }
    let config = Arc::new(Mutex::new(config));
    let host = Express { model: model("powernv9"), config: config.clone() };
    let space = AddressSpace::new(&Registry::new(Arc::new(host)));
    space.attach(Group(0)).unwrap();
    (Device::open(&space, Group(0), ADDRESS.parse().unwrap()).unwrap(), config)
}

/// Bit 4 of the status register: the device has a list of capabilities.
const HAS_LIST: u8 = 0x10;
const POWER: u8 = 0x01;
const MSI: u8 = 0x05;
const EXPRESS: u8 = 0x10;
const MSIX: u8 = 0x11;
const ADVANCED: u8 = 0x13;

#[test]
fn each_capability_s_own_registers_are_guarded_and_no_others() {
    let (device, bytes) = with(&[(POWER, 0x40), (MSI, 0x50), (EXPRESS, 0x60), (MSIX, 0xa0), (ADVANCED, 0xb0)]);
    let config = device.config();
    for (id, at) in [(POWER, 0x40), (MSI, 0x50), (EXPRESS, 0x60), (MSIX, 0xa0), (ADVANCED, 0xb0)] {
        assert_eq!(config.capability(id), Some(at));
    }
    // The byte or two of each capability that only the library writes.
    let guarded: [(&str, &str, &[u64]); 5] = [
        ("the power state", "drop the device", &[0x44, 0x45]),
        ("MSI", "enable_interrupts", &[0x52, 0x53]),
        // Bit 15 of device control resets the function: the upper byte.
        ("function level reset", "`Device::reset`", &[0x69]),
        ("MSI-X", "enable_interrupts", &[0xa2, 0xa3]),
        ("function level reset", "`Device::reset`", &[0xb4]),
    ];
    for at in 0x40..0xc0u64 {
        let owner = guarded.iter().find(|(.., bytes)| bytes.contains(&at));
        let before = *bytes.lock().unwrap();
        match (config.write(at, 0x80u8), owner) {
            (Ok(()), None) => assert_eq!(config.read::<u8>(at), Ok(0x80), "{at:#x}"),
            (Err(AccessError::Guarded { offset, register, method, .. }), Some((what, remedy, _))) => {
                assert_eq!((offset, register), (at, *what));
                assert!(method.contains(remedy), "{at:#x}: {method}");
                assert_eq!(*bytes.lock().unwrap(), before, "{at:#x}");
            }
            (result, owner) => panic!("{at:#x}: {result:?}, but {owner:?}"),
        }
    }
    // A wider write is refused if any of its bytes is.
    for (offset, refused) in [(0x68, true), (0x6a, false), (0xb4, true), (0xb6, false), (0x50, false), (0x52, true)] {
        assert_eq!(config.write(offset, 0u16).is_err(), refused, "{offset:#x}");
    }
    for (offset, refused) in [(0x64, false), (0x68, true), (0x6c, false), (0x40, false), (0x44, true)] {
        assert_eq!(config.write(offset, 0u32).is_err(), refused, "{offset:#x}");
    }
}

#[test]
fn a_list_of_capabilities_that_never_ends_is_read_once() {
    let (device, _) = with(&[(EXPRESS, 0x40), (MSIX, 0x60), (EXPRESS, 0x40)]);
    assert_eq!((device.config().capability(EXPRESS), device.config().capability(MSIX)), (Some(0x40), Some(0x60)));
    assert!(device.config().write(0x48, 0u16).is_err());
    // In the header, where no capability can be.
    let (device, _) = with(&[(EXPRESS, 0x40), (MSIX, 0x20)]);
    assert_eq!(device.config().capability(MSIX), None);
}

#[test]
fn without_a_list_nothing_is_taken_for_a_capability() {
    let (device, _) = open(0, &[(EXPRESS, 0x40), (MSIX, 0x60)]);
    let config = device.config();
    assert_eq!((config.capability(EXPRESS), config.capability(MSIX)), (None, None));
    assert_eq!((config.write(0x48, 0u16), config.write(0x62, 0u16)), (Ok(()), Ok(())));
}
