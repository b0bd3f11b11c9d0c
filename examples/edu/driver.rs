//! A driver for QEMU's `edu`, a PCI device that copies between memory and its own buffer.
//! `docs/drivers.md` builds it step by step. Registers: QEMU, `docs/specs/edu.rst`.

use spapr_iommu::PciAddress;
use spapr_iommu::addr::IovaRange;
use spapr_iommu::device::{AccessError, Bar, Device, DeviceError, Endian, Interrupt, InterruptKind};
use spapr_iommu::dma::{Buffer, Dma, DmaMask, OpenError};
use spapr_iommu::host::Errno;
use std::time::{Duration, Instant};

/// Vendor and device ID.
pub(crate) const ID: (u16, u16) = (0x1234, 0x11e8);

/// Registers in BAR 0.
const IDENTIFICATION: u64 = 0x00;
const INTERRUPT_STATUS: u64 = 0x24;
const INTERRUPT_ACKNOWLEDGE: u64 = 0x64;
const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;

/// Bits of a command.
const START: u64 = 1;
const TO_MEMORY: u64 = 2;
const INTERRUPT: u64 = 4;

/// Bus address of the buffer as the device's engine sees it, and its size.
const INTERNAL: u64 = 0x4_0000;
/// Largest number of bytes in one transfer.
pub(crate) const MOST: u64 = 4096;

/// A transfer takes about 100 ms.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why the device did not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EduError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("{device} is not an edu: its register 0 reads {found:#010x}")]
    NotEdu { device: String, found: u32 },
    #[error("cannot wait for an interrupt: {0}")]
    Wait(Errno),
    #[error("a transfer did not end within {} s", TIMEOUT.as_secs())]
    Stuck,
    #[error("the device moves {MOST} bytes at a time, the buffers have {0}")]
    TooLong(u64),
}

/// The device, ready for work.
pub(crate) struct Edu {
    // Dropped first: this takes the device off the bus.
    device: Device,
    registers: Bar,
    /// Interrupt that signals completion; without it the status is polled.
    interrupt: Option<Interrupt>,
}

impl Edu {
    /// Opens the device at a PCI address; `mask` is the device's build option, 64 bits here and 28
    /// by default.
    pub(crate) fn open(
        dma: &Dma,
        address: PciAddress,
        mask: DmaMask,
        kind: Option<InterruptKind>,
    ) -> Result<Self, EduError> {
        let device = dma.open(address, mask)?;
        let registers = device.bar(0, Endian::Big)?;
        let found = registers.read::<u32>(IDENTIFICATION)?;
        if found & 0xffff != 0x00ed {
            return Err(EduError::NotEdu { device: address.to_string(), found });
        }
        let interrupt = match kind {
            Some(kind) => device.enable_interrupts(kind, 1)?.pop(),
            None => None,
        };
        device.start_dma()?;
        Ok(Self { device, registers, interrupt })
    }

    /// Returns the underlying device.
    #[allow(dead_code, reason = "the tests look at it")]
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Makes the device read all of `from`, and then write what it read to `to`.
    pub(crate) fn copy(&self, from: &Buffer<u8>, to: &Buffer<u8>) -> Result<(), EduError> {
        self.copy_between(from.iova_range(), to.iova_range())
    }

    /// Copies between bus addresses, as many bytes as both ranges hold.
    pub(crate) fn copy_between(&self, from: IovaRange, to: IovaRange) -> Result<(), EduError> {
        let count = from.len().min(to.len());
        if count > MOST {
            return Err(EduError::TooLong(count));
        }
        self.transfer(from.start().0, INTERNAL, count, START)?;
        self.transfer(INTERNAL, to.start().0, count, START | TO_MEMORY)
    }

    fn transfer(&self, source: u64, destination: u64, count: u64, command: u64) -> Result<(), EduError> {
        let command = if self.interrupt.is_some() { command | INTERRUPT } else { command };
        self.registers.write(SOURCE, source)?;
        self.registers.write(DESTINATION, destination)?;
        self.registers.write(COUNT, count)?;
        self.registers.write(COMMAND, command)?;
        match &self.interrupt {
            Some(interrupt) => self.wait(interrupt),
            None => self.poll(),
        }
    }

    fn wait(&self, interrupt: &Interrupt) -> Result<(), EduError> {
        if !interrupt.wait(Some(TIMEOUT)).map_err(EduError::Wait)? {
            return Err(EduError::Stuck);
        }
        let status = self.registers.read::<u32>(INTERRUPT_STATUS)?;
        self.registers.write(INTERRUPT_ACKNOWLEDGE, status)?;
        Ok(interrupt.rearm()?)
    }

    fn poll(&self) -> Result<(), EduError> {
        let began = Instant::now();
        while self.registers.read::<u64>(COMMAND)? & START != 0 {
            if began.elapsed() > TIMEOUT {
                return Err(EduError::Stuck);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}
