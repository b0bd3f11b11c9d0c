//! A slot of the guest's bus with a device of the host, which can leave and return while the guest
//! runs.

use super::device::Passed;
use super::function::{self, Function, MMIO, MMIO_OFFSET};
use super::kvm::Vm;
use super::messages::Messages;
use super::plug::SLOTS;
use parking_lot::RwLock;
use spapr_iommu::Group;
use spapr_iommu::guest::Phb;
use spapr_iommu::host::PciDevice;
use spapr_iommu::space::DeviceArea;
use std::error::Error;
use std::io;
use std::sync::Arc;

/// KVM's memory slot of the first BAR; RAM has the slot before.
const FIRST_BAR: u32 = 8;

/// The slot.
pub(crate) struct Slot {
    pub(crate) group: Group,
    pci: PciDevice,
    number: u32,
    /// Size of BAR 0, and whether it is to be guest memory.
    size: u64,
    mapped: bool,
    messages: Messages,
    plugged: RwLock<Option<Plugged>>,
}

/// The contents of the slot. The BAR is dropped before its device.
struct Plugged {
    /// Where the guest has BAR 0 as memory.
    at: Option<u64>,
    bar: Option<DeviceArea>,
    device: Passed,
}

impl Slot {
    /// Opens a device of an attached group for the guest.
    pub(crate) fn new(
        phb: &Phb,
        group: Group,
        pci: PciDevice,
        number: u32,
        mapped: bool,
    ) -> Result<Self, Box<dyn Error>> {
        let device = Passed::open(phb, group, &pci, number)?;
        let messages = Messages::new(device.device(), number)?;
        let slot = Self { group, pci, number, size: device.size(), mapped, messages, plugged: RwLock::default() };
        slot.put(device)?;
        Ok(slot)
    }

    fn put(&self, device: Passed) -> Result<(), Box<dyn Error>> {
        let bar = if self.mapped { device.map_bar()? } else { None };
        *self.plugged.write() = Some(Plugged { at: None, bar, device });
        Ok(())
    }

    /// Returns whether it holds a device.
    pub(crate) fn is_plugged(&self) -> bool {
        self.plugged.read().is_some()
    }

    /// Opens the device again, whose group is attached.
    pub(crate) fn plug(&self, phb: &Phb) -> Result<(), Box<dyn Error>> {
        let device = Passed::open(phb, self.group, &self.pci, self.number)?;
        let messages = Arc::clone(device.device());
        self.put(device)?;
        // Not before: they keep the device open, and with it its group.
        self.messages.forward(Some(messages));
        Ok(())
    }

    /// Closes the device. No processor may run.
    pub(crate) fn unplug(&self, vm: &Vm) -> io::Result<()> {
        self.messages.off(vm);
        self.messages.forward(None);
        match self.plugged.write().take() {
            Some(Plugged { at: Some(_), .. }) => vm.remove_memory(FIRST_BAR + self.number),
            _ => Ok(()),
        }
    }

    fn with<T>(&self, act: impl FnOnce(&Passed) -> T) -> Option<T> {
        self.plugged.read().as_ref().map(|plugged| act(&plugged.device))
    }
}

impl Function for Slot {
    fn name(&self) -> &'static str {
        "nvme"
    }

    fn connector(&self) -> Option<u32> {
        Some(SLOTS + self.number)
    }

    fn place(&self) -> u32 {
        function::place(self.number)
    }

    fn bar(&self) -> (u64, u64) {
        let at = self.with(|device| device.config().address());
        (at.unwrap_or_else(|| function::bar_address(self.number)), self.size)
    }

    fn read_config(&self, at: u64, size: u32) -> u32 {
        self.with(|device| device.config().read(at, size)).unwrap_or(u32::MAX)
    }

    fn write_config(&self, at: u64, size: u32, value: u32) {
        self.with(|device| device.config().write(at, size, value));
    }

    /// Moves the guest's memory to where its BAR is. Where the host's pages do not allow it,
    /// accesses exit.
    fn follow_bar(&self, vm: &Vm) {
        let mut plugged = self.plugged.write();
        let Some(Plugged { at, bar: Some(bar), device }) = plugged.as_mut() else { return };
        let inside = |at: &u64| at.checked_sub(MMIO.0).is_some_and(|from| from < MMIO.1 - self.size);
        let wanted = device.config().decoded().filter(inside);
        if *at == wanted {
            return;
        }
        if at.take().is_some() {
            // The memory slot exists, so it can be removed.
            let _ = vm.remove_memory(FIRST_BAR + self.number);
        }
        *at = wanted.filter(|at| {
            let (at, user) = (at + MMIO_OFFSET, bar.as_ptr() as u64);
            // SAFETY: the mapping, of whole pages, stays until it is taken from the VM.
            unsafe { vm.add_memory(FIRST_BAR + self.number, at, user, self.size) }.is_ok()
        });
    }

    fn load(&self, at: u64, len: usize) -> Vec<u8> {
        self.with(|device| device.bar().load(at, len)).unwrap_or_else(|| vec![0xff; len])
    }

    fn store(&self, at: u64, data: &[u8]) {
        self.with(|device| device.bar().store(at, data));
    }

    fn messages(&self) -> &Messages {
        &self.messages
    }

    fn reset(&self, vm: &Vm) -> Result<(), Box<dyn Error>> {
        self.messages.off(vm);
        self.with(|device| device.config().reset()).transpose()?;
        self.follow_bar(vm);
        Ok(())
    }
}
