//! A device's messages, MSI-X: the guest sets them up by RTAS, and each goes from the device's
//! eventfd to a source of the interrupt controller without leaving the kernel. The monitor signals
//! the eventfds of an emulated device.

use super::kvm::Vm;
use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;
use spapr_iommu::device::{Device, DeviceError, ForwardedInterrupts, InterruptKind};
use std::error::Error;
use std::os::fd::AsFd;
use std::sync::Arc;

/// Maximum number of messages of a device here.
const MAX: u32 = 16;

/// Functions of `ibm,change-msi`: the current kind (to turn messages off), and MSI-X.
const CHANGE: u32 = 3;
const CHANGE_MSIX: u32 = 4;

/// The messages of a device.
pub(crate) struct Messages {
    /// `None` if it is emulated or absent.
    device: Mutex<Option<Arc<Device>>>,
    /// Source number of the first.
    first: u32,
    max: u32,
    on: Mutex<Option<On>>,
}

/// Messages that are on: the device releases its eventfds first.
struct On {
    _forwarded: Option<ForwardedInterrupts>,
    eventfds: Vec<EventFd>,
}

impl Messages {
    /// Creates them, with source numbers that start at that of the device's slot.
    pub(crate) fn new(device: &Arc<Device>, slot: u32) -> Result<Self, DeviceError> {
        let max = device.interrupts(InterruptKind::Msix)?.count.min(MAX);
        let device = Mutex::new(Some(Arc::clone(device)));
        Ok(Self { device, first: FIRST_SOURCE + slot * MAX, max, on: Mutex::default() })
    }

    /// Creates those of an emulated device.
    pub(crate) fn emulated(slot: u32, count: u32) -> Self {
        Self { device: Mutex::default(), first: FIRST_SOURCE + slot * MAX, max: count.min(MAX), on: Mutex::default() }
    }

    /// Moves them to another device, or to none.
    pub(crate) fn forward(&self, device: Option<Arc<Device>>) {
        *self.device.lock() = device;
    }

    /// Sends a message of an emulated device, if the message is on.
    pub(crate) fn send(&self, message: u32) {
        if let Some(eventfd) = self.on.lock().as_ref().and_then(|on| on.eventfds.get(message as usize)) {
            // Fails only if the kernel has not taken the last 2^64 signals.
            let _ = eventfd.write(1);
        }
    }

    /// Returns how many there are.
    pub(crate) fn max(&self) -> u32 {
        self.max
    }

    /// Returns the source numbers.
    pub(crate) fn sources(&self) -> impl Iterator<Item = u32> {
        self.first..self.first + self.max
    }

    /// Returns how many are on.
    pub(crate) fn count(&self) -> u32 {
        self.on.lock().as_ref().map_or(0, |on| on.eventfds.len() as u32)
    }

    /// Returns the source number of a message that is on.
    pub(crate) fn source(&self, message: u32) -> Option<u32> {
        (message < self.count()).then_some(self.first + message)
    }

    /// Turns on as many messages as were on when the machine was saved.
    pub(crate) fn restore(&self, vm: &Vm, count: u32) -> Result<(), &'static str> {
        let on = self.change(vm, CHANGE_MSIX, count);
        if on == Some(count) { Ok(()) } else { Err("messages of the saved device cannot be turned on") }
    }

    /// `ibm,change-msi`: turns on `count` messages in place of those that are on, 0 for none.
    /// Returns how many are on; `None` if the guest requests what does not exist.
    pub(crate) fn change(&self, vm: &Vm, function: u32, count: u32) -> Option<u32> {
        if !matches!((function, count), (CHANGE_MSIX, _) | (CHANGE, 0)) {
            return None;
        }
        self.off(vm);
        let count = count.min(self.max);
        if count > 0 {
            // The guest learns only that it has none.
            let on = self.turn_on(vm, count).inspect_err(|error| eprintln!("linux: {count} messages: {error}"));
            *self.on.lock() = Some(on.ok()?);
        }
        Some(count)
    }

    fn turn_on(&self, vm: &Vm, count: u32) -> Result<On, Box<dyn Error>> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let eventfds = (0..count).map(|_| EventFd::from_flags(flags)).collect::<Result<Vec<_>, _>>()?;
        for (eventfd, source) in eventfds.iter().zip(self.sources()) {
            vm.set_irqfd(eventfd.as_fd(), source, true)?;
        }
        let borrowed: Vec<_> = eventfds.iter().map(AsFd::as_fd).collect();
        let forward = |device: &Arc<Device>| device.forward_interrupts(InterruptKind::Msix, &borrowed);
        let forwarded = self.device.lock().as_ref().map(forward).transpose()?;
        Ok(On { _forwarded: forwarded, eventfds })
    }

    /// Turns all off.
    pub(crate) fn off(&self, vm: &Vm) {
        let Some(On { _forwarded: forwarded, eventfds }) = self.on.lock().take() else { return };
        drop(forwarded);
        for (eventfd, source) in eventfds.iter().zip(self.sources()) {
            // Closing the eventfd does the same, later.
            let _ = vm.set_irqfd(eventfd.as_fd(), source, false);
        }
    }
}

/// First source number of devices; lower ones are processors' own.
const FIRST_SOURCE: u32 = 0x1300;
