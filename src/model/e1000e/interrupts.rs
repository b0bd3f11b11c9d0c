//! Interrupt causes: 82574 datasheet, sections 7.4 and 10.2.4.

use super::registers::Registers;
use crate::model::pci::Bus;

/// Causes: the ring's last descriptor was sent, few buffers are left, none is left.
pub(super) const TRANSMIT_EMPTY: u32 = 1 << 1;
pub(super) const FEW_BUFFERS: u32 = 1 << 4;
pub(super) const NO_BUFFER: u32 = 1 << 6 | OTHER;
/// Causes of each ring: for MSI-X by ring, else for all.
pub(super) const TRANSMITTED: [u32; 2] = [1 | 1 << 22, 1 | 1 << 23];
pub(super) const RECEIVED: [u32; 2] = [1 << 7 | 1 << 20, 1 << 7 | 1 << 21];
/// Cause in MSI-X: one of the causes without a vector of their own.
const OTHER: u32 = 1 << 24;
/// Causes in MSI-X, in the order of IVAR: receive rings, transmit rings, others.
const ASSIGNED: [u32; 5] = [1 << 20, 1 << 21, 1 << 22, 1 << 23, OTHER];
/// ICR: a cause is pending that may interrupt.
const ASSERTED: u32 = 1 << 31;

/// IVAR: the assignment is valid.
const VALID: u32 = 1 << 3;
/// ID of the capability of MSI-X, and the bit of its control word that enables it.
const MSIX: u8 = 0x11;
const MSIX_ENABLE: u8 = 1 << 7;
/// Offset of the list of capabilities.
const CAPABILITIES: u64 = 0x34;

/// ICR, ICS, IMS and IMC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Read,
    Set,
    Allow,
    Forbid,
}

/// Causes by bit.
#[derive(Clone, Debug, Default)]
pub(super) struct Causes {
    pending: u32,
    allowed: u32,
    /// Causes that have interrupted since they became pending and allowed.
    signalled: u32,
}

impl Causes {
    pub(super) fn raise(&mut self, causes: u32) {
        self.pending |= causes;
    }

    fn asserted(&self) -> u32 {
        self.pending & self.allowed
    }

    /// Reads a register. Reading ICR clears it if nothing may interrupt, or, without MSI-X, if
    /// something has.
    pub(super) fn read(&mut self, register: Register, msix: bool) -> u32 {
        match register {
            Register::Read => {
                let asserted = self.asserted() != 0;
                let value = self.pending | if asserted { ASSERTED } else { 0 };
                if self.allowed == 0 || asserted && !msix {
                    self.pending = 0;
                }
                value
            }
            Register::Allow => self.allowed,
            Register::Set | Register::Forbid => 0,
        }
    }

    pub(super) fn write(&mut self, register: Register, value: u32) {
        let value = value & !ASSERTED;
        match register {
            Register::Read => self.pending &= !value,
            Register::Set => self.pending |= value,
            Register::Allow => self.allowed |= value,
            Register::Forbid => self.allowed &= !value,
        }
    }

    /// Interrupts for new causes, and asserts the pin as long as a cause is pending.
    pub(super) fn interrupt(&mut self, registers: &Registers, bus: &mut Bus<'_>) {
        self.signalled &= self.asserted();
        let new = self.asserted() & !self.signalled;
        if has_msix(bus) {
            let (automatic, forbid) = registers.automatic();
            for (place, cause) in (0..).zip(ASSIGNED).filter(|(_, cause)| new & cause != 0) {
                let entry = registers.assignment() >> (4 * place);
                if entry & VALID == 0 || !bus.message(entry & 7) {
                    continue;
                }
                self.signalled |= cause;
                self.pending &= !(automatic & cause);
                self.allowed &= if forbid { !(automatic & cause) } else { u32::MAX };
            }
        } else if bus.messages() > 0 && new != 0 && self.signalled == 0 && bus.message(0) {
            self.signalled = new;
        }
        bus.set_intx(bus.messages() == 0 && self.asserted() != 0);
    }
}

/// Returns whether the driver has enabled MSI-X.
pub(super) fn has_msix(bus: &Bus<'_>) -> bool {
    let next = |at: &u64| Some(u64::from(bus.config(at + 1))).filter(|at| *at != 0);
    let first = Some(u64::from(bus.config(CAPABILITIES)));
    let msix = core::iter::successors(first, next).find(|at| bus.config(*at) == MSIX);
    msix.is_some_and(|at| bus.config(at + 3) & MSIX_ENABLE != 0)
}
