//! Registers of a controller: NVM Express base specification 2.0, section 3.1.

use super::identify::VERSION;

pub(super) const CC: u64 = 0x14;
/// Offset of the doorbells, 4 bytes each.
pub(super) const DOORBELLS: u64 = 0x1000;

const INTMS: u64 = 0x0c;
const INTMC: u64 = 0x10;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;

/// Largest number of entries of a queue.
const MAX_ENTRIES: u32 = 2048;
/// Largest page as a power of two of 4 KiB, CAP.MPSMAX.
const MAX_PAGE: u32 = 4;
/// CAP: queues are contiguous, 7.5 s to become ready, the NVM command set.
const CAP: u64 = (MAX_ENTRIES as u64 - 1) | 1 << 16 | 15 << 24 | 1 << 37 | (MAX_PAGE as u64) << 52;

/// CC.EN.
const ENABLE: u32 = 1;
/// CC.SHN, CSTS.SHST.
const SHUTDOWN: u32 = 3 << 14;
const SHUT_DOWN: u32 = 2 << 2;
/// CC.IOSQES and CC.IOCQES, and their values for commands of 64 and completions of 16 bytes.
const ENTRY_SIZES: u32 = 0xff << 16;
const SIZES: u32 = 0x46 << 16;
/// CSTS.RDY and CSTS.CFS.
const READY: u32 = 1;
const FATAL: u32 = 2;

/// What a write to CC requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Enable,
    Disable,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Registers {
    /// Masked vectors of INTx and MSI.
    pub(super) mask: u32,
    config: u32,
    status: u32,
    admin: u32,
    submissions: u64,
    completions: u64,
}

impl Registers {
    pub(super) fn max_entries(&self) -> u32 {
        MAX_ENTRIES
    }

    /// Bytes in a page, CC.MPS.
    pub(super) fn page(&self) -> u64 {
        4096 << (self.config >> 7 & 0xf).min(MAX_PAGE)
    }

    pub(super) fn entry_sizes_are_set(&self) -> bool {
        self.config & ENTRY_SIZES == SIZES
    }

    /// Returns whether the controller accepts commands.
    pub(super) fn is_running(&self) -> bool {
        self.status & (READY | FATAL) == READY
    }

    /// Marks the controller as failed: it accepts no commands until it is disabled.
    pub(super) fn fail(&mut self) {
        self.status |= FATAL;
    }

    /// Returns base and entries of the admin submission and completion queue.
    pub(super) fn admin_queues(&self) -> [(u64, u32); 2] {
        [(self.submissions, (self.admin & 0xfff) + 1), (self.completions, (self.admin >> 16 & 0xfff) + 1)]
    }

    /// Returns whether the registers describe a controller that can be enabled.
    fn is_sound(&self) -> bool {
        let page = self.page();
        let queues = self.admin_queues().iter().all(|(base, entries)| base % page == 0 && *entries > 1);
        // Pages in range, the NVM command set, round robin.
        queues && (self.config >> 7 & 0xf) <= MAX_PAGE && self.config >> 4 & 7 == 0 && self.config >> 11 & 7 == 0
    }

    /// Reads any bytes below the doorbells.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let mut all = [0; 0x38];
        let wide = [(0, CAP), (ASQ, self.submissions), (ACQ, self.completions)];
        wide.iter().for_each(|(at, value)| all[*at as usize..][..8].copy_from_slice(&value.to_le_bytes()));
        let narrow = [
            (0x08, VERSION),
            (INTMS, self.mask),
            (INTMC, self.mask),
            (CC, self.config),
            (0x1c, self.status),
            (AQA, self.admin),
        ];
        narrow.iter().for_each(|(at, value)| all[*at as usize..][..4].copy_from_slice(&value.to_le_bytes()));
        let rest = all.get(offset as usize..).unwrap_or_default();
        data.iter_mut().zip(rest).for_each(|(byte, value)| *byte = *value);
    }

    /// Writes 32 bits.
    pub(super) fn write(&mut self, offset: u64, value: u32) -> Change {
        let half = |old: u64, high: bool| {
            if high { old & 0xffff_ffff | u64::from(value) << 32 } else { old & !0xffff_ffff | u64::from(value) }
        };
        // The admin queues cannot be moved while the controller is enabled.
        let fixed = self.config & ENABLE != 0;
        match offset {
            INTMS => self.mask |= value,
            INTMC => self.mask &= !value,
            CC => return self.configure(value),
            AQA if !fixed => self.admin = value & 0x0fff_0fff,
            ASQ | 0x2c if !fixed => self.submissions = half(self.submissions, offset != ASQ) & !0xfff,
            ACQ | 0x34 if !fixed => self.completions = half(self.completions, offset != ACQ) & !0xfff,
            _ => {}
        }
        Change::None
    }

    fn configure(&mut self, value: u32) -> Change {
        let before = core::mem::replace(&mut self.config, value);
        // There is no cache to write back, so a shutdown is complete at once.
        self.status &= !(3 << 2);
        if value & SHUTDOWN != 0 {
            self.status |= SHUT_DOWN;
        }
        match (before & ENABLE, value & ENABLE) {
            (0, ENABLE) if self.is_sound() => {
                self.status |= READY;
                Change::Enable
            }
            (0, ENABLE) => {
                self.fail();
                Change::None
            }
            (ENABLE, 0) => {
                self.status = 0;
                Change::Disable
            }
            _ => Change::None,
        }
    }

    /// A reset by the bus clears the admin queues too, which disabling leaves.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}
