//! State shared by a device, its BARs and its interrupts: the open file, and whether the device may
//! use the bus.

use super::config::{Config, is_master};
use super::interrupt::{InterruptKind, Slots};
use super::{AccessError, DeviceError};
use crate::device::eeh::{self, EehError, PeState};
use crate::host::{Process, irqs};
use crate::space;
use core::sync::atomic::{AtomicBool, Ordering};
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// Whether a device may use the bus, for owners of memory that must not be freed meanwhile. Cheap
/// to clone and to check.
#[derive(Clone, Debug, Default)]
pub struct DmaState(Arc<AtomicBool>);

impl DmaState {
    /// Returns whether the device may read and write memory: true from before
    /// [`Device::start_dma`](super::Device::start_dma) until after DMA has stopped.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Returns a weak handle, valid for as long as the device, or a handle of it, is held.
    pub(crate) fn downgrade(&self) -> Weak<AtomicBool> {
        Arc::downgrade(&self.0)
    }

    fn set(&self, on: bool) {
        self.0.store(on, Ordering::Release);
    }
}

pub(crate) struct OpenDevice {
    pub(crate) device: space::Device,
    pub(crate) address: Arc<str>,
    pub(super) config: Config,
    pub(super) dma: DmaState,
    pub(super) slots: Mutex<Slots>,
    /// Whether the kernel said that there is no PE, which does not change.
    no_pe: AtomicBool,
    /// Serialises starting and stopping DMA.
    turn: Mutex<()>,
    /// The process that opened it. In a child of `fork` its end is none of the device's.
    pub(super) process: Process,
}

impl core::fmt::Debug for OpenDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "OpenDevice({})", self.address)
    }
}

impl OpenDevice {
    pub(super) fn new(device: space::Device, address: Arc<str>, config: Config) -> Self {
        Self {
            device,
            address,
            config,
            dma: DmaState::default(),
            slots: Mutex::default(),
            no_pe: AtomicBool::new(false),
            turn: Mutex::new(()),
            process: Process::current(),
        }
    }

    /// Checks whether the device is still there, after something read all ones.
    pub(super) fn check(&self) -> Result<(), AccessError> {
        let device = || Arc::clone(&self.address);
        let answers = self.config.answers();
        if !self.no_pe.load(Ordering::Relaxed) {
            match eeh::any_state(&self.device) {
                // The container may have PEs of other groups: a device that answers is in none of
                // these.
                Ok(state @ (PeState::Reset | PeState::Stopped | PeState::Unavailable)) if !answers => {
                    return Err(AccessError::Frozen { device: device(), state });
                }
                Err(EehError::NoPe { .. }) => self.no_pe.store(true, Ordering::Relaxed),
                Ok(_) | Err(_) => {}
            }
        }
        if answers { Ok(()) } else { Err(AccessError::Gone { device: device() }) }
    }

    pub(super) fn start_dma(&self) -> Result<(), DeviceError> {
        let _turn = self.turn.lock();
        let was = self.dma.is_on();
        // Set before it is true, and cleared again if it does not become true.
        self.dma.set(true);
        let error = match self.config.set_master(true) {
            Ok(command) if is_master(command) => return Ok(()),
            Ok(command) => match self.check() {
                Err(error) => error.into(),
                Ok(()) => DeviceError::BusMaster { device: Arc::clone(&self.address), command },
            },
            Err(error) => error.into(),
        };
        if !was {
            // The write may have arrived all the same.
            let _ = self.config.set_master(false);
            self.config.forget_master();
            self.dma.set(false);
        }
        Err(error)
    }

    /// Stops DMA; transfers in progress have arrived when it returns. A device that is frozen or
    /// gone does none, and still does none when it comes back.
    pub(crate) fn stop_dma(&self) -> Result<(), DeviceError> {
        let _turn = self.turn.lock();
        match self.config.set_master(false) {
            Ok(command) if is_master(command) => {
                return Err(DeviceError::BusMaster { device: Arc::clone(&self.address), command });
            }
            Ok(_) => {}
            Err(error) => match self.check() {
                Err(AccessError::Frozen { .. } | AccessError::Gone { .. }) => self.config.forget_master(),
                _ => return Err(error.into()),
            },
        }
        self.dma.set(false);
        Ok(())
    }

    /// Disables all interrupts. Returns the last error, if any.
    pub(crate) fn disable_interrupts(&self) -> Result<(), DeviceError> {
        let mut slots = self.slots.lock();
        let mut result = Ok(());
        for kind in InterruptKind::ALL {
            if slots.take(kind) {
                let disabled = irqs::disable(self.device.host().as_ref(), self.device.fd(), kind.index());
                result = disabled.map_err(DeviceError::from).and(result);
            }
        }
        result
    }

    /// Returns vendor and device ID, if the device answers.
    pub(crate) fn present(&self) -> Result<(u16, u16), AccessError> {
        self.check()?;
        self.config.id()
    }

    /// Restores the command register after a reset or a freeze; fails if the device does not
    /// answer.
    pub(crate) fn restore(&self) -> Result<(), AccessError> {
        self.config.restore()?;
        self.check()
    }
}
