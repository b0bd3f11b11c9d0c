//! QEMU's `edu` device on a big-endian target: the registers in BAR 0 are big endian, the
//! configuration space is little endian as always.

use crate::host::Errno;

pub(super) const VENDOR: u16 = 0x1234;
pub(super) const DEVICE: u16 = 0x11e8;
pub(super) const BAR_SIZE: u64 = 1 << 20;
pub(super) const CONFIG_SIZE: u64 = 256;

const ID: u32 = 0x0100_00ed;
/// Bus address of the device's buffer as its DMA engine sees it.
const BUFFER: u64 = 0x4_0000;
const BUFFER_SIZE: u64 = 4096;

const COMMAND: usize = 4;
const COMMAND_WRITABLE: u8 = 0x07;
const MEMORY: u8 = 2;
const MASTER: u8 = 4;
const BAR0: usize = 0x10;

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

/// Offset of the MSI capability: one vector, 64-bit addresses.
const MSI: usize = 0x40;

/// A transfer the device requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// From memory at a bus address into the buffer.
    Read { iova: u64, offset: usize, len: usize },
    /// From the buffer into memory at a bus address.
    Write { iova: u64, offset: usize, len: usize },
}

#[derive(Clone, Debug)]
pub(super) struct Edu {
    config: [u8; CONFIG_SIZE as usize],
    liveness: u32,
    factorial: u32,
    status: u32,
    /// Interrupts raised and not yet acknowledged.
    interrupts: u32,
    /// Whether an interrupt was raised since [`Self::take_raised`].
    raised: bool,
    source: u64,
    destination: u64,
    count: u64,
    command: u64,
    pub(super) buffer: Box<[u8]>,
}

impl Default for Edu {
    fn default() -> Self {
        let mut config = [0; CONFIG_SIZE as usize];
        config[0..2].copy_from_slice(&VENDOR.to_le_bytes());
        config[2..4].copy_from_slice(&DEVICE.to_le_bytes());
        config[6] = 0x10; // status: has capabilities
        config[8] = 0x10; // revision
        config[0x0a] = 0xff; // class: none of the known ones
        config[0x2c..0x30].copy_from_slice(&[0xf4, 0x1a, 0x00, 0x11]); // subsystem: QEMU's
        config[0x34] = MSI as u8;
        config[MSI..MSI + 4].copy_from_slice(&[0x05, 0x00, 0x80, 0x00]);
        config[0x3d] = 1; // interrupt pin A
        Self {
            config,
            liveness: 0,
            factorial: 0,
            status: 0,
            interrupts: 0,
            raised: false,
            source: 0,
            destination: 0,
            count: 0,
            command: 0,
            buffer: vec![0; BUFFER_SIZE as usize].into(),
        }
    }
}

impl Edu {
    /// Resets the registers to their initial values; the configuration space is saved and restored
    /// around a reset.
    pub(super) fn reset(&mut self) {
        let config = self.config;
        *self = Self { config, ..Self::default() };
    }

    /// Resets the bus, after which the kernel restores BARs and memory decode.
    pub(super) fn reset_bus(&mut self) {
        self.reset();
        self.config[COMMAND] &= !MASTER;
    }

    /// Returns whether it may write to memory, which includes messages that interrupt.
    pub(super) fn is_master(&self) -> bool {
        self.config[COMMAND] & MASTER != 0
    }

    /// Returns whether an interrupt was raised since the last call.
    pub(super) fn take_raised(&mut self) -> bool {
        core::mem::take(&mut self.raised)
    }

    fn raise(&mut self, interrupts: u32) {
        self.interrupts |= interrupts;
        self.raised |= self.interrupts != 0;
    }

    pub(super) fn read_config(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        data.copy_from_slice(&self.config[config_span(offset, data.len())?]);
        Ok(())
    }

    pub(super) fn write_config(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        for (at, byte) in config_span(offset, data.len())?.zip(data) {
            self.config[at] = match at {
                COMMAND => byte & COMMAND_WRITABLE,
                // The writable bits of BAR 0 lie above its size, so that it can be sized.
                at if at == BAR0 + 2 => byte & 0xf0,
                at if at == BAR0 + 3 => *byte,
                at => self.config[at],
            };
        }
        Ok(())
    }

    /// Reads a register: 1, 2, 4 or 8 aligned bytes.
    pub(super) fn read_bar(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.check_enabled()?;
        let value = match (offset, data.len()) {
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
        };
        let bytes = value.to_be_bytes();
        data.copy_from_slice(&bytes[bytes.len() - data.len()..]);
        Ok(())
    }

    /// Writes a register: 1, 2, 4 or 8 aligned bytes. Returns a transfer it started, to be done at
    /// once.
    pub(super) fn write_bar(&mut self, offset: u64, data: &[u8]) -> Result<Option<Transfer>, Errno> {
        self.check_enabled()?;
        let value = data.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        match (offset, data.len()) {
            (0x04, 4) => self.liveness = !(value as u32),
            // Computed at once: the status never shows a computation in progress.
            (0x08, 4) => {
                self.factorial = factorial(value as u32);
                if self.status & STATUS_INTERRUPT != 0 {
                    self.raise(FACTORIAL_DONE);
                }
            }
            (0x20, 4) => self.status = value as u32 & STATUS_INTERRUPT,
            (0x60, 4) => self.raise(value as u32),
            (0x64, 4) => self.interrupts &= !(value as u32),
            (0x80, 4 | 8) => self.source = value,
            (0x88, 4 | 8) => self.destination = value,
            (0x90, 4 | 8) => self.count = value,
            (0x98, 4 | 8) if value & START != 0 => {
                self.command = value & !START;
                if value & INTERRUPT != 0 {
                    self.raise(TRANSFER_DONE);
                }
                return Ok(self.transfer());
            }
            _ => {}
        }
        Ok(None)
    }

    fn transfer(&self) -> Option<Transfer> {
        if !self.is_master() {
            return None;
        }
        let to_memory = self.command & TO_MEMORY != 0;
        let (device, iova) = if to_memory { (self.source, self.destination) } else { (self.destination, self.source) };
        let offset = device.checked_sub(BUFFER)?;
        let end = offset.checked_add(self.count)?;
        if end > BUFFER_SIZE {
            return None;
        }
        let (offset, len) = (offset as usize, self.count as usize);
        Some(if to_memory { Transfer::Write { iova, offset, len } } else { Transfer::Read { iova, offset, len } })
    }

    /// Returns whether its interrupt pin is asserted.
    pub(super) fn asserts(&self) -> bool {
        self.interrupts != 0
    }

    fn check_enabled(&self) -> Result<(), Errno> {
        if self.config[COMMAND] & MEMORY == 0 { Err(Errno::EIO) } else { Ok(()) }
    }
}

/// Returns whether vfio-pci itself answers for a byte of the configuration space: IDs, BARs, the
/// head of the capability list, interrupt line and pin (`init_pci_cap_basic_perm` in
/// `drivers/vfio/pci/vfio_pci_config.c`).
pub(super) fn is_virtual(offset: u64) -> bool {
    matches!(offset, 0..4 | 0x10..0x28 | 0x30..0x35 | 0x3c..0x3e)
}

/// Returns the factorial modulo 2^32, which is 0 from 34 on.
fn factorial(n: u32) -> u32 {
    if n < 34 { (1..=n).fold(1, u32::wrapping_mul) } else { 0 }
}

fn config_span(offset: u64, len: usize) -> Result<core::ops::Range<usize>, Errno> {
    let end = offset.checked_add(len as u64).filter(|end| *end <= CONFIG_SIZE).ok_or(Errno::EINVAL)?;
    Ok(offset as usize..end as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Edu {
        let mut edu = Edu::default();
        edu.write_config(4, &[MEMORY | MASTER, 0]).unwrap();
        edu
    }

    #[test]
    fn registers_are_big_endian_and_configuration_is_little() {
        let edu = ready();
        let (mut id, mut config) = ([0; 4], [0; 4]);
        edu.read_bar(0, &mut id).unwrap();
        edu.read_config(0, &mut config).unwrap();
        assert_eq!(id, [1, 0, 0, 0xed]);
        assert_eq!(config, [0x34, 0x12, 0xe8, 0x11]);
    }

    #[test]
    fn liveness_is_the_complement() {
        let mut edu = ready();
        edu.write_bar(4, &[0, 0, 0, 5]).unwrap();
        let mut back = [0; 4];
        edu.read_bar(4, &mut back).unwrap();
        assert_eq!(back, [0xff, 0xff, 0xff, 0xfa]);
    }

    #[test]
    fn interrupts_stay_until_they_are_acknowledged() {
        let mut edu = ready();
        edu.write_bar(0x20, &[0xff; 4]).unwrap();
        edu.write_bar(0x08, &5u32.to_be_bytes()).unwrap();
        let read = |edu: &Edu, register| {
            let mut value = [0; 4];
            edu.read_bar(register, &mut value).map(|()| u32::from_be_bytes(value))
        };
        assert_eq!([0x08, 0x20, 0x24].map(|at| read(&edu, at).unwrap()), [120, 0x80, 1]);
        assert_eq!((edu.take_raised(), edu.take_raised(), edu.asserts()), (true, false, true));
        edu.write_bar(0x98, &(START | INTERRUPT).to_be_bytes()).unwrap();
        edu.write_bar(0x60, &6u32.to_be_bytes()).unwrap();
        assert_eq!(read(&edu, 0x24), Ok(0x107));
        edu.write_bar(0x64, &0x107u32.to_be_bytes()).unwrap();
        assert_eq!((read(&edu, 0x24), edu.asserts()), (Ok(0), false));
    }

    #[test]
    fn the_bar_answers_only_with_memory_enabled() {
        assert_eq!(Edu::default().read_bar(0, &mut [0; 4]), Err(Errno::EIO));
    }

    #[test]
    fn a_transfer_stays_in_the_buffer_and_needs_bus_mastering() {
        let mut edu = ready();
        edu.write_bar(0x80, &0x10000u64.to_be_bytes()).unwrap();
        edu.write_bar(0x88, &(BUFFER + 96).to_be_bytes()).unwrap();
        edu.write_bar(0x90, &4000u64.to_be_bytes()).unwrap();
        let read = Transfer::Read { iova: 0x10000, offset: 96, len: 4000 };
        assert_eq!(edu.write_bar(0x98, &START.to_be_bytes()), Ok(Some(read)));
        edu.write_bar(0x90, &4001u64.to_be_bytes()).unwrap();
        assert_eq!(edu.write_bar(0x98, &START.to_be_bytes()), Ok(None));
        edu.write_bar(0x90, &8u64.to_be_bytes()).unwrap();
        edu.write_config(4, &[MEMORY, 0]).unwrap();
        assert_eq!(edu.write_bar(0x98, &START.to_be_bytes()), Ok(None));
        let mut command = [0xff; 8];
        edu.read_bar(0x98, &mut command).unwrap();
        assert_eq!(command, [0; 8]);
    }
}
