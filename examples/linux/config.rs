//! A device's configuration space as the guest sees it: the device's own, except for registers
//! about its address and its use of the bus.

use parking_lot::Mutex;
use spapr_iommu::device::{Config, Device, DeviceError};
use std::ops::Range;
use std::sync::Arc;

const COMMAND: u64 = 4;
const BARS: Range<u64> = 0x10..0x28;
const ROM: Range<u64> = 0x30..0x34;

/// Bits of the command register: the device answers at its BARs; it may use the bus.
const MEMORY: u16 = 2;
const MASTER: u16 = 4;
/// Type bits of a BAR.
const BAR_FLAGS: u32 = 0xf;

/// The configuration space.
pub(crate) struct GuestConfig {
    device: Arc<Device>,
    /// Initial address of BAR 0, which has 64 bits, and its size.
    at: u64,
    size: u64,
    registers: Mutex<Registers>,
}

/// Values that the guest has written.
#[derive(Clone, Copy, Default)]
struct Registers {
    command: u16,
    bars: [u32; 6],
}

impl GuestConfig {
    /// Creates it for a device whose BAR 0 of `size` bytes is at bus address `at`.
    pub(crate) fn new(device: Arc<Device>, at: u64, size: u64) -> Self {
        let config = Self { device, at, size, registers: Mutex::default() };
        *config.registers.lock() = config.initial();
        config
    }

    fn initial(&self) -> Registers {
        let flags = self.config().read::<u32>(BARS.start).unwrap_or(0) & BAR_FLAGS;
        Registers { command: 0, bars: [self.at as u32 | flags, (self.at >> 32) as u32, 0, 0, 0, 0] }
    }

    /// Returns the bus address of BAR 0.
    pub(crate) fn address(&self) -> u64 {
        let [low, high, ..] = self.registers.lock().bars;
        u64::from(high) << 32 | u64::from(low & !BAR_FLAGS)
    }

    /// Returns this address while the device answers there.
    pub(crate) fn decoded(&self) -> Option<u64> {
        let answers = self.registers.lock().command & MEMORY != 0;
        answers.then(|| self.address())
    }

    fn config(&self) -> &Config {
        self.device.config()
    }

    /// Reads a register of 1, 2 or 4 bytes; all ones where there is none.
    pub(crate) fn read(&self, at: u64, size: u32) -> u32 {
        let registers = self.registers.lock();
        let value = match at {
            COMMAND if size == 2 => return registers.command.into(),
            COMMAND => self.device_register(at, 4).map(|value| value & !0xffff | u32::from(registers.command)),
            _ if BARS.contains(&at) && size == 4 => Some(registers.bars[((at - BARS.start) / 4) as usize]),
            _ if ROM.contains(&at) => Some(0),
            _ => self.device_register(at, size),
        };
        value.unwrap_or(u32::MAX)
    }

    fn device_register(&self, at: u64, size: u32) -> Option<u32> {
        match size {
            1 => self.config().read::<u8>(at).ok().map(u32::from),
            2 => self.config().read::<u16>(at).ok().map(u32::from),
            4 => self.config().read(at).ok(),
            _ => None,
        }
    }

    /// Writes a register. Registers that the library guards, such as power state and interrupts, do
    /// not change: the monitor has calls for these.
    pub(crate) fn write(&self, at: u64, size: u32, value: u32) {
        let mut registers = self.registers.lock();
        let _ = match (at, size) {
            (COMMAND, 2 | 4) => {
                registers.command = value as u16;
                self.set_master(value as u16 & MASTER != 0).map_err(drop)
            }
            (at, 4) if BARS.contains(&at) => {
                let index = ((at - BARS.start) / 4) as usize;
                registers.bars[index] = self.bar(index, value);
                Ok(())
            }
            (_, 1) => self.config().write(at, value as u8).map_err(drop),
            (_, 2) => self.config().write(at, value as u16).map_err(drop),
            _ => self.config().write(at, value).map_err(drop),
        };
    }

    /// Returns the value of a BAR after a write: bits below its size stay 0, so that the guest can
    /// determine the size.
    fn bar(&self, index: usize, value: u32) -> u32 {
        let mask = !(self.size - 1);
        match index {
            0 => value & mask as u32 & !BAR_FLAGS | self.initial().bars[0] & BAR_FLAGS,
            1 => value & (mask >> 32) as u32,
            _ => 0,
        }
    }

    fn set_master(&self, on: bool) -> Result<(), DeviceError> {
        if on { self.device.start_dma() } else { self.device.stop_dma() }
    }

    /// Resets the device, which is off the bus afterwards.
    pub(crate) fn reset(&self) -> Result<(), DeviceError> {
        *self.registers.lock() = self.initial();
        self.device.reset()
    }
}
