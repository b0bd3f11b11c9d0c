//! A disk that the monitor emulates on the guest's PHB: virtio-blk on PCI. Its queue lies where the
//! guest's TCEs lead, which `PhbIommu` follows: the same tables as those of real devices.

mod block;
mod common;
mod config;
mod msix;
mod saved;
mod worker;

use super::function::{self, Function};
use super::kvm::Vm;
use super::memory::Map;
use super::messages::Messages;
use block::Block;
use common::Common;
use config::{BAR_SIZE, COMMON, DEVICE, ISR, NOTIFY, PENDING, Space, TABLE, VECTORS};
use msix::Msix;
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use ppc64_linux_init::Wrote;
pub(crate) use saved::SavedDisk;
use spapr_iommu::guest::{Phb, PhbIommu};
use std::error::Error;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use vm_memory::{GuestAddressSpace, GuestMemoryMmap, IommuMemory};
use worker::Worker;

/// The slot of the disk on the guest's bus: after all devices of the host.
const SLOT: u32 = 15;

/// Bytes of a notification, which is a queue's number.
const NOTIFICATION: u32 = 2;

/// The disk. Its worker is dropped first.
pub(crate) struct Disk {
    worker: Option<Worker>,
    device: Arc<Device>,
}

/// State shared by the guest's processors and the worker.
struct Device {
    /// Guest memory as devices on the PHB see it.
    memory: IommuMemory<GuestMemoryMmap, PhbIommu>,
    ram: Map,
    space: Mutex<Space>,
    common: Mutex<Common>,
    msix: Msix,
    block: Block,
    /// Signalled when the guest notifies the queue, without an exit to the monitor.
    notified: EventFd,
}

impl Device {
    /// Returns the memory with its present RAM.
    fn memory(&self) -> IommuMemory<GuestMemoryMmap, PhbIommu> {
        self.memory.with_replaced_backend(GuestMemoryMmap::clone(&self.ram.memory()))
    }
}

impl Disk {
    /// Creates a disk over a file.
    pub(crate) fn new(vm: &Vm, phb: &Arc<Phb>, ram: &Map, file: &Path) -> Result<Self, Box<dyn Error>> {
        let memory = IommuMemory::new(GuestMemoryMmap::clone(&ram.memory()), PhbIommu::new(Arc::clone(phb)), true, ());
        let notified = EventFd::from_flags(EfdFlags::EFD_CLOEXEC)?;
        let at = function::bar_address(SLOT);
        vm.set_ioeventfd(notified.as_fd(), at + function::MMIO_OFFSET + NOTIFY, NOTIFICATION)?;
        let device = Arc::new(Device {
            memory,
            ram: ram.clone(),
            space: Mutex::new(Space::new(at)),
            common: Mutex::new(Common::new()?),
            msix: Msix::new(Messages::emulated(SLOT, VECTORS.into())),
            block: Block::open(file).map_err(|error| format!("{}: {error}", file.display()))?,
            notified,
        });
        Ok(Self { worker: Some(Worker::start(&device)?), device })
    }

    /// Compares the file with what the guest says it wrote. Returns how many requests the guest
    /// made.
    pub(crate) fn check(&self, wrote: &[Wrote]) -> Result<u64, String> {
        if wrote.is_empty() {
            return Err("the guest does not say what it wrote".into());
        }
        for Wrote { start, len, checksum } in wrote {
            let found = self.device.block.checksum(*start, *len).map_err(|error| error.to_string())?;
            if found != *checksum {
                return Err(format!("{len} bytes at {start} have checksum {found:08x}, {checksum:08x} was written"));
            }
        }
        Ok(self.device.block.requests())
    }
}

impl Function for Disk {
    fn name(&self) -> &'static str {
        "scsi"
    }

    fn place(&self) -> u32 {
        function::place(SLOT)
    }

    fn bar(&self) -> (u64, u64) {
        (function::bar_address(SLOT), BAR_SIZE)
    }

    fn read_config(&self, at: u64, size: u32) -> u32 {
        self.device.space.lock().read(at, size)
    }

    fn write_config(&self, at: u64, size: u32, value: u32) {
        let space = &mut *self.device.space.lock();
        space.write(at, size, value);
        self.device.msix.set_control(space.msix_control());
        // Requests may have waited until the device was allowed to use the bus.
        worker::wake(&self.device);
    }

    fn load(&self, at: u64, len: usize) -> Vec<u8> {
        let Device { common, msix, block, .. } = &*self.device;
        let cut = |bytes: &[u8], at: u64| bytes.iter().skip(at as usize).copied().chain([0; 8]).take(len).collect();
        match at {
            COMMON..ISR => cut(&common.lock().read(at - COMMON).to_le_bytes(), 0),
            // Without messages there are no interrupts.
            ISR..DEVICE => cut(&[], 0),
            DEVICE..NOTIFY => cut(&block.config(), at - DEVICE),
            TABLE..PENDING => msix.load(at - TABLE, len),
            _ => msix.pending(at.wrapping_sub(PENDING), len),
        }
    }

    fn store(&self, at: u64, data: &[u8]) {
        match at {
            COMMON..ISR => {
                let value = data.iter().rev().fold(0, |value, byte| value << 8 | u32::from(*byte));
                self.device.common.lock().write(at - COMMON, value);
            }
            // KVM takes notifications of the usual length.
            NOTIFY..TABLE => worker::wake(&self.device),
            TABLE..PENDING => self.device.msix.store(at - TABLE, data),
            _ => {}
        }
    }

    fn messages(&self) -> &Messages {
        &self.device.msix.messages
    }

    fn reset(&self, vm: &Vm) -> Result<(), Box<dyn Error>> {
        let Device { space, common, msix, .. } = &*self.device;
        msix.messages.off(vm);
        common.lock().reset();
        msix.reset();
        *space.lock() = Space::new(self.bar().0);
        Ok(())
    }
}
