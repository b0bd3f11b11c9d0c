//! QEMU's `edu` device on a big-endian target: registers lie big endian in BAR 0, the configuration space is little
//! endian as ever.

use crate::host::Errno;

pub(super) const VENDOR: u16 = 0x1234;
pub(super) const DEVICE: u16 = 0x11e8;
pub(super) const BAR_SIZE: u64 = 1 << 20;
pub(super) const CONFIG_SIZE: u64 = 256;

const ID: u32 = 0x0100_00ed;
/// Where the DMA engine sees the device's buffer.
const BUFFER: u64 = 0x4_0000;
const BUFFER_SIZE: u64 = 4096;

const COMMAND: usize = 4;
const COMMAND_WRITABLE: u8 = 0x07;
const MEMORY: u8 = 2;
const MASTER: u8 = 4;
const BAR0: usize = 0x10;

const START: u64 = 1;
const TO_MEMORY: u64 = 2;

/// A transfer the device asks for.
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
    /// Interrupts raised and not yet acknowledged.
    interrupts: u32,
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
        config[8] = 0x10; // revision
        config[0x0b] = 0xff; // class: none of the known ones
        config[0x3d] = 1; // interrupt pin A
        Self {
            config,
            liveness: 0,
            interrupts: 0,
            source: 0,
            destination: 0,
            count: 0,
            command: 0,
            buffer: vec![0; BUFFER_SIZE as usize].into(),
        }
    }
}

impl Edu {
    /// Registers go back to their first values; the configuration space is saved and restored around a reset.
    pub(super) fn reset(&mut self) {
        let config = self.config;
        *self = Self { config, ..Self::default() };
    }

    pub(super) fn read_config(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        data.copy_from_slice(&self.config[config_span(offset, data.len())?]);
        Ok(())
    }

    pub(super) fn write_config(&mut self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        for (at, byte) in config_span(offset, data.len())?.zip(data) {
            self.config[at] = match at {
                COMMAND => byte & COMMAND_WRITABLE,
                // The bits of BAR 0 above its size, so that it can be sized.
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

    /// Writes a register, likewise; a started transfer is returned, to be done at once.
    pub(super) fn write_bar(&mut self, offset: u64, data: &[u8]) -> Result<Option<Transfer>, Errno> {
        self.check_enabled()?;
        let value = data.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        match (offset, data.len()) {
            (0x04, 4) => self.liveness = !(value as u32),
            (0x80, 4 | 8) => self.source = value,
            (0x88, 4 | 8) => self.destination = value,
            (0x90, 4 | 8) => self.count = value,
            (0x98, 4 | 8) if value & START != 0 => {
                self.command = value & !START;
                return Ok(self.transfer());
            }
            _ => {}
        }
        Ok(None)
    }

    fn transfer(&self) -> Option<Transfer> {
        if self.config[COMMAND] & MASTER == 0 {
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

    /// Whether its interrupt pin is asserted.
    pub(super) fn asserts(&self) -> bool {
        self.interrupts != 0
    }

    fn check_enabled(&self) -> Result<(), Errno> {
        if self.config[COMMAND] & MEMORY == 0 { Err(Errno::EIO) } else { Ok(()) }
    }
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
