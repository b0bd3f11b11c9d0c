//! Registers of a controller: NVM Express base specification 2.0, section 3.1. All are little
//! endian, in BAR 0.

use super::NvmeError;
use spapr_iommu::device::{AccessError, Bar, Device, Endian};
use std::time::{Duration, Instant};

const CAP: u64 = 0x00;
const VS: u64 = 0x08;
const CC: u64 = 0x14;
const CSTS: u64 = 0x1c;
const AQA: u64 = 0x24;
const ASQ: u64 = 0x28;
const ACQ: u64 = 0x30;
const DOORBELLS: u64 = 0x1000;

/// CC.EN.
const ENABLE: u32 = 1;
/// CC.SHN: a normal shutdown.
const SHUTDOWN: u32 = 1 << 14;
/// CC.IOSQES and CC.IOCQES: commands of 2^6 and completions of 2^4 bytes. The rest is 0: pages of 4
/// KiB, NVM commands.
const SIZES: u32 = 6 << 16 | 4 << 20;

/// CSTS.RDY.
const READY: u32 = 1;
/// CSTS.CFS: the controller has failed.
const FATAL: u32 = 1 << 1;
/// CSTS.SHST, and its value for a shutdown that is complete.
const SHUTDOWN_STATUS: u32 = 3 << 2;
const SHUT_DOWN: u32 = 2 << 2;

/// CAP: capabilities of the controller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capabilities(u64);

impl Capabilities {
    /// Returns the largest number of entries in a queue.
    pub(crate) fn entries(self) -> u32 {
        (self.0 & 0xffff) as u32 + 1
    }

    /// Returns how long it may take to enable or disable the controller.
    pub(crate) fn timeout(self) -> Duration {
        // 0 if the controller does not specify it.
        Duration::from_millis(500 * (self.0 >> 24 & 0xff).max(1))
    }

    /// Returns the smallest page it supports, bytes.
    pub(crate) fn smallest_page(self) -> u64 {
        1 << (12 + (self.0 >> 48 & 0xf))
    }

    /// Returns the bytes from one doorbell to the next.
    fn stride(self) -> u64 {
        4 << (self.0 >> 32 & 0xf)
    }
}

/// The registers of one controller.
#[derive(Debug)]
pub(crate) struct Registers {
    bar: Bar,
    stride: u64,
    pub(crate) capabilities: Capabilities,
}

impl Registers {
    pub(crate) fn new(device: &Device) -> Result<Self, NvmeError> {
        let bar = device.bar(0, Endian::Little)?;
        let capabilities = Capabilities(bar.read(CAP)?);
        Ok(Self { bar, stride: capabilities.stride(), capabilities })
    }

    /// Returns major and minor version of the specification it follows.
    pub(crate) fn version(&self) -> Result<(u16, u8), AccessError> {
        let version: u32 = self.bar.read(VS)?;
        Ok(((version >> 16) as u16, (version >> 8) as u8))
    }

    /// Sets the admin queues: their bus addresses, and the entries of each.
    pub(crate) fn set_admin_queues(&self, commands: u64, completions: u64, entries: u16) -> Result<(), AccessError> {
        let last = u32::from(entries - 1);
        self.bar.write(AQA, last << 16 | last)?;
        self.bar.write(ASQ, commands)?;
        self.bar.write(ACQ, completions)
    }

    /// Enables the controller, and waits until it is ready.
    pub(crate) fn enable(&self) -> Result<(), NvmeError> {
        self.bar.write(CC, SIZES | ENABLE)?;
        self.wait("ready", self.capabilities.timeout(), |status| status & READY != 0)
    }

    /// Disables the controller: when this returns it has dropped its queues, and no longer accesses
    /// memory.
    pub(crate) fn disable(&self) -> Result<(), NvmeError> {
        let config: u32 = self.bar.read(CC)?;
        self.bar.write(CC, config & !ENABLE)?;
        self.wait_for("disabled", self.capabilities.timeout(), |status| status & READY == 0)
    }

    /// Makes it write back its cache.
    pub(crate) fn shut_down(&self, timeout: Duration) -> Result<(), NvmeError> {
        self.bar.write(CC, SIZES | ENABLE | SHUTDOWN)?;
        self.wait("shut down", timeout, |status| status & SHUTDOWN_STATUS == SHUT_DOWN)
    }

    /// Checks that it works: present, not frozen, not failed.
    pub(crate) fn check(&self) -> Result<(), NvmeError> {
        let status: u32 = self.bar.read(CSTS)?;
        if status & FATAL != 0 { Err(NvmeError::Failed { status }) } else { Ok(()) }
    }

    /// Notifies it of commands up to `tail`.
    pub(crate) fn ring_commands(&self, queue: u16, tail: u16) -> Result<(), AccessError> {
        self.bar.write(DOORBELLS + 2 * u64::from(queue) * self.stride, u32::from(tail))
    }

    /// Notifies it of completions taken up to `head`.
    pub(crate) fn ring_completions(&self, queue: u16, head: u16) -> Result<(), AccessError> {
        self.bar.write(DOORBELLS + (2 * u64::from(queue) + 1) * self.stride, u32::from(head))
    }

    /// Waits for a state of CSTS; fails if the controller fails first.
    fn wait(&self, what: &'static str, timeout: Duration, is: impl Fn(u32) -> bool) -> Result<(), NvmeError> {
        self.wait_for(what, timeout, |status| status & FATAL != 0 || is(status))?;
        self.check()
    }

    fn wait_for(&self, what: &'static str, timeout: Duration, is: impl Fn(u32) -> bool) -> Result<(), NvmeError> {
        let began = Instant::now();
        loop {
            let status: u32 = self.bar.read(CSTS)?;
            if is(status) {
                return Ok(());
            }
            if began.elapsed() > timeout {
                return Err(NvmeError::NotInTime { what, timeout, status });
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}
