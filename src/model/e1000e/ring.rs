//! Rings of descriptors in memory: 82574 datasheet, sections 7.1.9 and 7.2.8.

use super::QUEUES;
use super::registers::Registers;
use crate::addr::Iova;
use crate::model::pci::{Bus, BusError};

const RECEIVE: u64 = 0x2800;
const TRANSMIT: u64 = 0x3800;
/// Distance from the registers of one ring to those of the next.
const STRIDE: u64 = 0x100;

/// Offsets from the base address register: RDBAH, RDLEN, RDH, RDT, RXDCTL, and for sending TARC.
const BASE_HIGH: u64 = 0x04;
const LENGTH: u64 = 0x08;
const HEAD: u64 = 0x10;
const TAIL: u64 = 0x18;
const CONTROL: u64 = 0x28;
const ARBITRATION: u64 = 0x40;

/// RXDCTL after a reset: write each descriptor back.
const RXDCTL_INITIAL: u32 = 1 << 16;
/// TARC: the ring takes part.
const TAKES_PART: u32 = 1 << 10;
/// TARC after a reset: with weight 3.
const TARC_INITIAL: u32 = TAKES_PART | 3;

/// Bytes in a descriptor.
const DESCRIPTOR: u32 = 16;

/// Returns the initial value of a register of a ring, and the bits of it that a driver may change.
pub(super) fn register(offset: u64) -> Option<(u32, u32)> {
    let begin = if offset < TRANSMIT { RECEIVE } else { TRANSMIT };
    let at = offset.checked_sub(begin).filter(|at| at / STRIDE < QUEUES as u64)?;
    match at % STRIDE {
        // Descriptors are aligned to 16 bytes, rings are cache lines of eight.
        0 => Some((0, !0xf)),
        BASE_HIGH => Some((0, u32::MAX)),
        LENGTH => Some((0, 0xf_ff80)),
        HEAD | TAIL => Some((0, 0xffff)),
        CONTROL if begin == RECEIVE => Some((RXDCTL_INITIAL, u32::MAX)),
        CONTROL => Some((0, u32::MAX)),
        ARBITRATION if begin == TRANSMIT => Some((TARC_INITIAL, u32::MAX)),
        _ => None,
    }
}

/// A ring, by the offset of its registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ring(u64);

impl Ring {
    pub(super) fn receive(queue: usize) -> Self {
        Self(RECEIVE + STRIDE * queue as u64)
    }

    pub(super) fn transmit(queue: usize) -> Self {
        Self(TRANSMIT + STRIDE * queue as u64)
    }

    /// Returns the offset of its tail register.
    pub(super) fn tail_register(self) -> u64 {
        self.0 + TAIL
    }

    /// Returns whether a transmit ring takes part.
    pub(super) fn takes_part(self, registers: &Registers) -> bool {
        registers.has(self.0 + ARBITRATION, TAKES_PART)
    }

    pub(super) fn entries(self, registers: &Registers) -> u32 {
        registers.read(self.0 + LENGTH) / DESCRIPTOR
    }

    fn head(self, registers: &Registers) -> u32 {
        registers.read(self.0 + HEAD)
    }

    /// Returns the number of descriptors that belong to the controller; none if head or tail lie
    /// outside of the ring.
    pub(super) fn available(self, registers: &Registers) -> u32 {
        let (entries, head, tail) = (self.entries(registers), self.head(registers), registers.read(self.0 + TAIL));
        if head >= entries || tail >= entries { 0 } else { (tail + entries - head) % entries }
    }

    /// Returns the bus address of the first descriptor that belongs to the controller.
    fn address(self, registers: &Registers) -> u64 {
        let base = u64::from(registers.read(self.0 + BASE_HIGH)) << 32 | u64::from(registers.read(self.0));
        base.wrapping_add(u64::from(self.head(registers) * DESCRIPTOR))
    }

    /// Reads that descriptor.
    pub(super) fn fetch(self, registers: &Registers, bus: &mut Bus<'_>) -> Result<[u8; 16], BusError> {
        let mut descriptor = [0; DESCRIPTOR as usize];
        bus.read(Iova(self.address(registers)), &mut descriptor)?;
        Ok(descriptor)
    }

    /// Writes to that descriptor, from byte `offset` on.
    pub(super) fn write_back(
        self,
        registers: &Registers,
        offset: u64,
        bytes: &[u8],
        bus: &mut Bus<'_>,
    ) -> Result<(), BusError> {
        bus.write(Iova(self.address(registers).wrapping_add(offset)), bytes)
    }

    /// Returns that descriptor to the driver.
    pub(super) fn advance(self, registers: &mut Registers) {
        let next = self.head(registers) + 1;
        registers.set(self.0 + HEAD, if next >= self.entries(registers) { 0 } else { next });
    }
}
