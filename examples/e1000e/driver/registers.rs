//! Registers of a controller: 82574 datasheet, section 10. All have 32 bits, little endian, in BAR
//! 0.

use super::ring::Ring;
use super::{E1000eError, QUEUES, TIMEOUT};
use spapr_iommu::addr::IovaRange;
use spapr_iommu::device::{AccessError, Bar, Device, Endian};
use std::time::{Duration, Instant};

const CTRL: u64 = 0x0000;
const STATUS: u64 = 0x0008;
const ICR: u64 = 0x00c0;
const IMS: u64 = 0x00d0;
const IMC: u64 = 0x00d8;
const EIAC: u64 = 0x00dc;
const IVAR: u64 = 0x00e4;
const RCTL: u64 = 0x0100;
const TCTL: u64 = 0x0400;
const TIPG: u64 = 0x0410;
const RDBAL: u64 = 0x2800;
const TDBAL: u64 = 0x3800;
const RXCSUM: u64 = 0x5000;
const RFCTL: u64 = 0x5008;
const RAL: u64 = 0x5400;
const RAH: u64 = 0x5404;
const MRQC: u64 = 0x5818;
const RETA: u64 = 0x5c00;
const RSSRK: u64 = 0x5c80;

/// Offsets from the base address register of a ring to its others.
const BASE_HIGH: u64 = 0x04;
const LENGTH: u64 = 0x08;
const HEAD: u64 = 0x10;
const TAIL: u64 = 0x18;
/// TXDCTL, and TARC of the same ring.
const CONTROL: u64 = 0x28;
const ARBITRATION: u64 = 0x40;
/// Distance from the registers of one ring to those of the next.
const STRIDE: u64 = 0x100;

/// CTRL: full duplex, no access to memory, link up, reset.
const FULL_DUPLEX: u32 = 1;
const MASTER_DISABLE: u32 = 1 << 2;
const LINK_UP: u32 = 1 << 6;
const RESET: u32 = 1 << 26;
/// STATUS: the link is up; the controller may access memory.
const STATUS_LINK_UP: u32 = 1 << 1;
const STATUS_MASTER: u32 = 1 << 19;
/// RCTL: enable, packets above 1522 bytes, loopback in the MAC, broadcasts, strip the checksum. The
/// rest is 0: buffers of 2048 bytes.
const RECEIVE: u32 = 1 << 1 | 1 << 5 | 1 << 15 | 1 << 26;
const LOOPBACK: u32 = 1 << 6;
/// TCTL: enable, pad short packets, 15 collisions, distance 63.
const TRANSMIT: u32 = 1 << 1 | 1 << 3 | 15 << 4 | 63 << 12;
/// TIPG for copper: 8, 8, 6.
const GAPS: u32 = 8 | 8 << 10 | 6 << 20;
/// TXDCTL: write each descriptor back, count in descriptors, and a bit that must be 1.
const WRITE_BACK: u32 = 1 << 16 | 1 << 22 | 1 << 24;
/// TARC: the ring takes part, with weight 3.
const TAKES_PART: u32 = 1 << 10 | 3;
/// RFCTL.EXTEN: extended receive descriptors.
const EXTENDED: u32 = 1 << 15;
/// RXCSUM.PCSD: the descriptor has the hash.
const HASH: u32 = 1 << 13;
/// MRQC: queues by hash, of IPv4 addresses.
const BY_HASH: u32 = 1 | 1 << 17;
/// RETA: queues 0, 1, 0, 1 for hashes with these low bits.
const ALTERNATE: u32 = 0x8000_8000;

/// Returns the offset of a ring's registers.
fn base(ring: Ring) -> u64 {
    match ring {
        Ring::Receive(index) => RDBAL + STRIDE * index as u64,
        Ring::Transmit(index) => TDBAL + STRIDE * index as u64,
    }
}

/// The registers of one controller.
#[derive(Debug)]
pub(super) struct Registers(Bar);

impl Registers {
    pub(super) fn new(device: &Device) -> Result<Self, E1000eError> {
        Ok(Self(device.bar(0, Endian::Little)?))
    }

    /// Stops both directions, waits until the controller no longer accesses memory, and resets it.
    pub(super) fn reset(&self) -> Result<(), E1000eError> {
        self.0.write(IMC, u32::MAX)?;
        self.0.write(RCTL, 0u32)?;
        self.0.write(TCTL, 0u32)?;
        let control = self.0.read::<u32>(CTRL)?;
        self.0.write(CTRL, control | MASTER_DISABLE)?;
        self.wait("quiet", |status| status & STATUS_MASTER == 0)?;
        self.0.write(CTRL, control & !MASTER_DISABLE | RESET)?;
        // Registers may be accessed again after a microsecond.
        std::thread::sleep(Duration::from_micros(10));
        self.0.write(IMC, u32::MAX)?;
        self.0.read::<u32>(ICR)?;
        Ok(())
    }

    /// Sets the link up, and waits for it.
    pub(super) fn connect(&self) -> Result<(), E1000eError> {
        let control = self.0.read::<u32>(CTRL)?;
        self.0.write(CTRL, control & !MASTER_DISABLE | LINK_UP | FULL_DUPLEX)?;
        self.wait("linked", |status| status & STATUS_LINK_UP != 0)
    }

    /// Returns the station's address.
    pub(super) fn address(&self) -> Result<[u8; 6], AccessError> {
        let [low, high] = [self.0.read::<u32>(RAL)?, self.0.read::<u32>(RAH)?].map(u32::to_le_bytes);
        Ok([low[0], low[1], low[2], low[3], high[0], high[1]])
    }

    /// Gives a ring, empty, to the controller.
    pub(super) fn set_up(&self, ring: Ring, descriptors: IovaRange) -> Result<(), AccessError> {
        let (base, start) = (base(ring), descriptors.start().0);
        self.0.write(base, start as u32)?;
        self.0.write(base + BASE_HIGH, (start >> 32) as u32)?;
        self.0.write(base + LENGTH, descriptors.len() as u32)?;
        self.0.write(base + HEAD, 0u32)?;
        self.0.write(base + TAIL, 0u32)?;
        match ring {
            Ring::Receive(_) => Ok(()),
            Ring::Transmit(_) => {
                self.0.write(base + CONTROL, WRITE_BACK)?;
                self.0.write(base + ARBITRATION, TAKES_PART)
            }
        }
    }

    /// Notifies the controller of descriptors up to `tail`.
    pub(super) fn set_tail(&self, ring: Ring, tail: u32) -> Result<(), AccessError> {
        self.0.write(base(ring) + TAIL, tail)
    }

    /// Spreads received packets over the queues, by their IPv4 addresses.
    pub(super) fn spread(&self) -> Result<(), AccessError> {
        const { assert!(QUEUES == 2) };
        self.0.write(RFCTL, EXTENDED)?;
        self.0.write(RXCSUM, HASH)?;
        for offset in (0..128).step_by(4) {
            self.0.write(RETA + offset, ALTERNATE)?;
        }
        for word in 0..10u32 {
            // Any key with well-mixed bits will do.
            self.0.write(RSSRK + 4 * u64::from(word), 0x9e37_79b9u32.wrapping_mul(2 * word + 1))?;
        }
        self.0.write(MRQC, BY_HASH)
    }

    /// Starts both directions.
    pub(super) fn start(&self, loopback: bool) -> Result<(), AccessError> {
        self.0.write(TIPG, GAPS)?;
        self.0.write(RCTL, RECEIVE | if loopback { LOOPBACK } else { 0 })?;
        self.0.write(TCTL, TRANSMIT)
    }

    /// Assigns causes to MSI-X vectors; causes in `automatic` are cleared when they interrupt.
    pub(super) fn assign_vectors(&self, assignment: u32, automatic: u32) -> Result<(), AccessError> {
        self.0.write(IVAR, assignment)?;
        self.0.write(EIAC, automatic)
    }

    /// Lets causes interrupt: at once, if one is pending.
    pub(super) fn allow(&self, causes: u32) -> Result<(), AccessError> {
        self.0.write(IMS, causes)
    }

    /// Returns the pending causes and clears them.
    pub(super) fn acknowledge(&self) -> Result<u32, AccessError> {
        let causes = self.0.read::<u32>(ICR)?;
        self.0.write(ICR, causes)?;
        Ok(causes)
    }

    /// Returns the status; fails if the device is gone or frozen.
    pub(super) fn status(&self) -> Result<u32, AccessError> {
        self.0.read(STATUS)
    }

    fn wait(&self, what: &'static str, is: impl Fn(u32) -> bool) -> Result<(), E1000eError> {
        let began = Instant::now();
        loop {
            let status = self.status()?;
            if is(status) {
                return Ok(());
            }
            if began.elapsed() > TIMEOUT {
                return Err(E1000eError::NotInTime { what, timeout: TIMEOUT, status });
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}
