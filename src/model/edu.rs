//! QEMU's `edu` device on a big-endian target: the registers in BAR 0 are big endian, the
//! configuration space is little endian as always.

use super::pci::{Bus, BusError, Description, DeviceModel, Reset};
use crate::addr::Iova;
use core::fmt;

const VENDOR: u16 = 0x1234;
const DEVICE: u16 = 0x11e8;
const BAR_SIZE: u64 = 1 << 20;

const ID: u32 = 0x0100_00ed;
/// Bus address of the device's buffer as its DMA engine sees it.
const BUFFER: u64 = 0x4_0000;
const BUFFER_SIZE: u64 = 4096;

const START: u64 = 1;
const TO_MEMORY: u64 = 2;
/// Command: raise an interrupt after the transfer has ended.
const INTERRUPT: u64 = 4;

/// Status: raise an interrupt when the factorial is computed.
const STATUS_INTERRUPT: u32 = 0x80;
/// Interrupt status: a factorial was computed.
const FACTORIAL_DONE: u32 = 1;
/// Interrupt status: a transfer has ended.
const TRANSFER_DONE: u32 = 0x100;

/// QEMU's `edu`, which copies between memory and a buffer of its own; the devices that a
/// [`Model`](super::Model) has from the start. Registers: QEMU, `docs/specs/edu.rst`.
///
/// A transfer is done in the write that starts it. One that [sticks](super::pci::DeviceFault) shows
/// as running until a later access or step completes it.
#[derive(Clone)]
pub struct Edu {
    liveness: u32,
    factorial: u32,
    status: u32,
    /// Interrupts raised and not yet acknowledged.
    interrupts: u32,
    source: u64,
    destination: u64,
    count: u64,
    /// The command, with START while its transfer runs.
    command: u64,
    buffer: Box<[u8]>,
}

impl Default for Edu {
    fn default() -> Self {
        Self::new()
    }
}

impl Edu {
    /// Creates a device as after power-on.
    pub fn new() -> Self {
        Self {
            liveness: 0,
            factorial: 0,
            status: 0,
            interrupts: 0,
            source: 0,
            destination: 0,
            count: 0,
            command: 0,
            buffer: vec![0; BUFFER_SIZE as usize].into(),
        }
    }

    fn raise(&mut self, interrupts: u32, bus: &mut Bus<'_>) {
        self.interrupts |= interrupts;
        if self.interrupts != 0 {
            bus.set_intx(true);
            bus.message(0);
        }
    }

    /// Does the transfer that was started, if it ends.
    fn run(&mut self, bus: &mut Bus<'_>) -> bool {
        if self.command & START == 0 || self.transfer(bus) == Err(BusError::Stuck) {
            return false;
        }
        self.command &= !START;
        if self.command & INTERRUPT != 0 {
            self.raise(TRANSFER_DONE, bus);
        }
        true
    }

    fn transfer(&mut self, bus: &mut Bus<'_>) -> Result<(), BusError> {
        let to_memory = self.command & TO_MEMORY != 0;
        let (device, iova) = if to_memory { (self.source, self.destination) } else { (self.destination, self.source) };
        // A transfer past the buffer moves nothing.
        let Some(offset) = device.checked_sub(BUFFER) else { return Ok(()) };
        let Some(end) = offset.checked_add(self.count).filter(|end| *end <= BUFFER_SIZE) else { return Ok(()) };
        let part = &mut self.buffer[offset as usize..end as usize];
        if to_memory { bus.write(Iova(iova), part) } else { bus.read(Iova(iova), part) }
    }

    fn register(&self, offset: u64, len: usize) -> u64 {
        match (offset, len) {
            (0x00, 4) => u64::from(ID),
            (0x04, 4) => u64::from(self.liveness),
            (0x08, 4) => u64::from(self.factorial),
            (0x20, 4) => u64::from(self.status),
            (0x24, 4) => u64::from(self.interrupts),
            (0x80, 4 | 8) => self.source,
            (0x88, 4 | 8) => self.destination,
            (0x90, 4 | 8) => self.count,
            (0x98, 4 | 8) => self.command,
            _ => u64::MAX,
        }
    }
}

impl DeviceModel for Edu {
    fn description(&self) -> Description {
        let description = Description::new(VENDOR, DEVICE).revision(0x10).class(0xff_0000).subsystem(0x1af4, 0x1100);
        description.bar(0, BAR_SIZE).intx().msi(1)
    }

    fn read_bar(&mut self, _bar: u32, offset: u64, data: &mut [u8], bus: &mut Bus<'_>) {
        self.run(bus);
        let bytes = self.register(offset, data.len()).to_be_bytes();
        data.copy_from_slice(&bytes[bytes.len() - data.len()..]);
    }

    fn write_bar(&mut self, _bar: u32, offset: u64, data: &[u8], bus: &mut Bus<'_>) {
        let value = data.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        match (offset, data.len()) {
            (0x04, 4) => self.liveness = !(value as u32),
            // Computed at once: the status never shows a computation in progress.
            (0x08, 4) => {
                self.factorial = factorial(value as u32);
                if self.status & STATUS_INTERRUPT != 0 {
                    self.raise(FACTORIAL_DONE, bus);
                }
            }
            (0x20, 4) => self.status = value as u32 & STATUS_INTERRUPT,
            (0x60, 4) => self.raise(value as u32, bus),
            (0x64, 4) => {
                self.interrupts &= !(value as u32);
                bus.set_intx(self.interrupts != 0);
            }
            // Registers of a transfer that runs do not change.
            (0x80..=0x98, 4 | 8) if self.command & START != 0 => {}
            (0x80, 4 | 8) => self.source = value,
            (0x88, 4 | 8) => self.destination = value,
            (0x90, 4 | 8) => self.count = value,
            (0x98, 4 | 8) if value & START != 0 => self.command = value,
            _ => {}
        }
        self.run(bus);
    }

    fn step(&mut self, bus: &mut Bus<'_>) -> bool {
        self.run(bus)
    }

    fn reset(&mut self, _reset: Reset) {
        *self = Self::new();
    }

    fn fork(&self) -> Box<dyn DeviceModel> {
        Box::new(self.clone())
    }
}

/// Returns the factorial modulo 2^32, which is 0 from 34 on.
fn factorial(n: u32) -> u32 {
    if n < 34 { (1..=n).fold(1, u32::wrapping_mul) } else { 0 }
}

/// Without the buffer.
impl fmt::Debug for Edu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Edu(command {:#x}, interrupts {:#x})", self.command, self.interrupts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_itself_in_a_line() {
        assert_eq!(format!("{:#?}", Edu::new()), "Edu(command 0x0, interrupts 0x0)");
    }
}
