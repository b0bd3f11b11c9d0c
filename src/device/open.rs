//! An open device and its BARs: the state that a device, its BARs and its interrupts share, which
//! is the open file and whether the device may use the bus.

use super::config::{Config, is_master};
use super::error::{AccessError, DeviceError};
use super::kind::{EnabledKinds, InterruptKind};
use super::pe::{self, PeError, PeState, RawDevice};
use super::register::{Access, Endian, RegisterValue};
use crate::host::{Process, calls};
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

/// An open device: its file, its configuration space, and what is enabled.
pub(crate) struct OpenDevice {
    pub(super) raw: RawDevice,
    pub(super) address: Arc<str>,
    pub(super) config: Config,
    pub(super) dma: DmaState,
    pub(super) enabled: Mutex<EnabledKinds>,
    /// Whether the kernel reported that there is no PE, which does not change.
    no_pe: AtomicBool,
    /// Serialises starting and stopping DMA.
    dma_change: Mutex<()>,
    /// The process that opened it. A child of `fork` must not take the device off the bus.
    pub(super) process: Process,
}

impl core::fmt::Debug for OpenDevice {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "OpenDevice({})", self.address)
    }
}

impl OpenDevice {
    pub(super) fn new(raw: RawDevice, address: Arc<str>, config: Config) -> Self {
        Self {
            raw,
            address,
            config,
            dma: DmaState::default(),
            enabled: Mutex::default(),
            no_pe: AtomicBool::new(false),
            dma_change: Mutex::new(()),
            process: Process::current(),
        }
    }

    /// Checks whether the device is still there, after something read all ones.
    pub(super) fn check(&self) -> Result<(), AccessError> {
        let device = || Arc::clone(&self.address);
        let answers = self.config.answers();
        if !self.no_pe.load(Ordering::Relaxed) {
            match pe::any_state(&self.raw) {
                // The container may have PEs of other groups: a device that answers is in none of
                // these.
                Ok(state @ (PeState::Reset | PeState::Stopped | PeState::Unavailable)) if !answers => {
                    return Err(AccessError::Frozen { device: device(), state });
                }
                Err(PeError::NoPe { .. }) => self.no_pe.store(true, Ordering::Relaxed),
                Ok(_) | Err(_) => {}
            }
        }
        if answers { Ok(()) } else { Err(AccessError::Gone { device: device() }) }
    }

    pub(super) fn start_dma(&self) -> Result<(), DeviceError> {
        let _change = self.dma_change.lock();
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
            // The write may still have arrived.
            let _ = self.config.set_master(false);
            self.config.forget_master();
            self.dma.set(false);
        }
        Err(error)
    }

    /// Stops DMA; transfers in progress have arrived when it returns. A device that is frozen or
    /// gone does none, and still does none when it comes back.
    pub(super) fn stop_dma(&self) -> Result<(), DeviceError> {
        let _change = self.dma_change.lock();
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
    pub(super) fn disable_interrupts(&self) -> Result<(), DeviceError> {
        let mut enabled = self.enabled.lock();
        let mut result = Ok(());
        for kind in InterruptKind::ALL {
            if enabled.take(kind) {
                let disabled = calls::disable_irqs(self.raw.host().as_ref(), self.raw.fd(), kind.index());
                result = disabled.map_err(DeviceError::from).and(result);
            }
        }
        result
    }

    /// Returns vendor and device ID, if the device answers.
    pub(super) fn present(&self) -> Result<(u16, u16), AccessError> {
        self.check()?;
        self.config.id()
    }

    /// Restores the command register after a reset or a freeze; fails if the device does not
    /// answer.
    pub(super) fn restore(&self) -> Result<(), AccessError> {
        self.config.restore()?;
        self.check()
    }
}

/// A BAR, with the registers that the device's manual describes.
///
/// Each access is a single volatile one of exactly its width, ordered with all memory the program
/// touches before and after it: a doorbell does not overtake the descriptor it announces. The
/// kernel accesses a BAR of I/O ports, which cannot be mapped.
///
/// It keeps the device's file open beyond its [`Device`](super::Device).
#[derive(Debug)]
pub struct Bar {
    pub(super) access: Access,
    pub(super) endian: Endian,
    pub(super) open: Arc<OpenDevice>,
}

impl Bar {
    /// Reads the register at `offset`, bytes from the BAR's start, a multiple of the width.
    ///
    /// All ones may be a value, or what a read gives if the device does not answer. So if all bits
    /// are ones, and only then, EEH and the configuration space are checked:
    /// [`AccessError::Frozen`], [`AccessError::Gone`].
    pub fn read<V: RegisterValue>(&self, offset: u64) -> Result<V, AccessError> {
        match self.access.read(offset, self.endian)? {
            (value, false) => Ok(value),
            (value, true) => self.open.check().map(|()| value),
        }
    }

    /// Writes the register at `offset`, bytes from the BAR's start, a multiple of the width. If the
    /// device does not answer, the value is lost, which only a read can detect.
    pub fn write<V: RegisterValue>(&self, offset: u64, value: V) -> Result<(), AccessError> {
        self.access.write(offset, value, self.endian)
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.access.region.size()
    }

    /// Returns the byte order of its registers.
    pub fn endian(&self) -> Endian {
        self.endian
    }
}
