//! Registers of a controller: 82574 datasheet, section 10. All have 32 bits.

use super::interrupts::Register;
use super::ring;
use std::collections::BTreeMap;

const CTRL: u64 = 0x0000;
const STATUS: u64 = 0x0008;
const CTRL_EXT: u64 = 0x0018;
const EIAC: u64 = 0x00dc;
const IAM: u64 = 0x00e0;
const IVAR: u64 = 0x00e4;
pub(super) const RCTL: u64 = 0x0100;
pub(super) const TCTL: u64 = 0x0400;
const TIPG: u64 = 0x0410;
pub(super) const RXCSUM: u64 = 0x5000;
pub(super) const RFCTL: u64 = 0x5008;
/// RAL and RAH of each address, in turn.
pub(super) const ADDRESSES: u64 = 0x5400;
pub(super) const MRQC: u64 = 0x5818;
pub(super) const RETA: u64 = 0x5c00;
pub(super) const RSSRK: u64 = 0x5c80;
const RSSRK_END: u64 = RSSRK + 40;

/// Counters: packets for which there was no buffer, packets received, packets sent.
pub(super) const MISSED: u64 = 0x4010;
pub(super) const RECEIVED: u64 = 0x4074;
pub(super) const SENT: u64 = 0x4080;

/// Number of station addresses.
pub(super) const STATIONS: u64 = 16;
/// RAH: the address is valid.
pub(super) const VALID: u32 = 1 << 31;

/// CTRL: full duplex, link up, 1000 Mb/s, two pins. As QEMU's after a reset.
const CTRL_INITIAL: u32 = 1 | 1 << 6 | 1 << 9 | 1 << 18 | 1 << 20;
const MASTER_DISABLE: u32 = 1 << 2;
const LINK_UP: u32 = 1 << 6;
const RESET: u32 = 1 << 26;
/// STATUS: full duplex, link up, 1000 Mb/s, detected 1000 Mb/s, access to memory.
const STATUS_FIXED: u32 = 1 | 1 << 7 | 1 << 9;
const STATUS_LINK_UP: u32 = 1 << 1;
const STATUS_MASTER: u32 = 1 << 19;
/// CTRL_EXT.IAME.
const KEEP_MASK: u32 = 1 << 27;
/// Causes that EIAC may name.
const EXTENDED_CAUSES: u32 = 0x1f << 20;
/// RXCSUM after a reset: checksums of IP and TCP are checked, which has no visible effect here.
const RXCSUM_INITIAL: u32 = 0x300;
/// TIPG for copper: 8, 8, 6.
const TIPG_INITIAL: u32 = 8 | 8 << 10 | 6 << 20;

/// Behaviour of a register.
#[derive(Clone, Copy, Debug)]
pub(super) enum Access {
    /// Shows and changes interrupt causes.
    Causes(Register),
    /// Is cleared when it is read.
    Counter,
    /// Keeps what is written, or does not exist.
    Plain,
}

impl Access {
    pub(super) fn of(offset: u64) -> Self {
        match offset {
            0xc0 => Self::Causes(Register::Read),
            0xc8 => Self::Causes(Register::Set),
            0xd0 => Self::Causes(Register::Allow),
            0xd8 => Self::Causes(Register::Forbid),
            MISSED | RECEIVED | SENT => Self::Counter,
            _ => Self::Plain,
        }
    }
}

/// Returns the initial value of a register, and the bits of it that a driver may change; `None` if
/// there is no such register.
fn known(offset: u64) -> Option<(u32, u32)> {
    match offset {
        CTRL => Some((CTRL_INITIAL, !RESET)),
        CTRL_EXT | IAM | IVAR | RCTL | TCTL | RFCTL | MRQC => Some((0, u32::MAX)),
        EIAC => Some((0, EXTENDED_CAUSES)),
        TIPG => Some((TIPG_INITIAL, u32::MAX)),
        RXCSUM => Some((RXCSUM_INITIAL, 0xffff)),
        MISSED | RECEIVED | SENT => Some((0, 0)),
        ADDRESSES.. if offset < ADDRESSES + 8 * STATIONS => {
            // The upper half has 16 bits of the address, its use, and its validity.
            Some((0, if offset.is_multiple_of(8) { u32::MAX } else { VALID | 0x3_ffff }))
        }
        RETA..RSSRK_END => Some((0, u32::MAX)),
        _ => ring::register(offset),
    }
}

#[derive(Clone, Debug)]
pub(super) struct Registers {
    /// Registers that differ from their initial values.
    words: BTreeMap<u64, u32>,
}

impl Registers {
    /// The state after a reset, with the station's address from the NVM.
    pub(super) fn new(address: [u8; 6]) -> Self {
        let [a, b, c, d, e, f] = address;
        let low = u32::from_le_bytes([a, b, c, d]);
        let high = u32::from(u16::from_le_bytes([e, f])) | VALID;
        Self { words: [(ADDRESSES, low), (ADDRESSES + 4, high)].into() }
    }

    /// Reads a register; 0 if there is none.
    pub(super) fn read(&self, offset: u64) -> u32 {
        match offset {
            STATUS => {
                let link = if self.read(CTRL) & LINK_UP != 0 { STATUS_LINK_UP } else { 0 };
                STATUS_FIXED | link | if self.is_master() { STATUS_MASTER } else { 0 }
            }
            _ => match self.words.get(&offset) {
                Some(value) => *value,
                None => known(offset).map_or(0, |(initial, _)| initial),
            },
        }
    }

    /// Writes a register. Returns whether that requests a reset.
    pub(super) fn write(&mut self, offset: u64, value: u32) -> bool {
        let Some((_, writable)) = known(offset) else { return false };
        self.words.insert(offset, self.read(offset) & !writable | value & writable);
        offset == CTRL && value & RESET != 0
    }

    /// Returns whether the controller allows itself memory accesses.
    pub(super) fn is_master(&self) -> bool {
        self.read(CTRL) & MASTER_DISABLE == 0
    }

    /// Returns whether bits of a register are all set.
    pub(super) fn has(&self, offset: u64, bits: u32) -> bool {
        self.read(offset) & bits == bits
    }

    /// Counts one.
    pub(super) fn count(&mut self, counter: u64) {
        // Counters saturate.
        let count = self.read(counter).saturating_add(1);
        self.words.insert(counter, count);
    }

    /// Reads a counter and clears it.
    pub(super) fn take_count(&mut self, counter: u64) -> u32 {
        self.words.remove(&counter).unwrap_or(0)
    }

    /// Sets the head of a ring.
    pub(super) fn set(&mut self, offset: u64, value: u32) {
        self.words.insert(offset, value);
    }

    /// Returns the assignment of causes to vectors.
    pub(super) fn assignment(&self) -> u32 {
        self.read(IVAR)
    }

    /// Returns the causes that are cleared when they interrupt by MSI-X, and whether they are
    /// masked as well.
    pub(super) fn automatic(&self) -> (u32, bool) {
        (self.read(EIAC), !self.has(CTRL_EXT, KEEP_MASK))
    }
}
