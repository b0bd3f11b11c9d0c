//! The driver, which knows nothing of the model: it would drive the real device as well.

use spapr_iommu::device::{AccessError, Bar, Device, DeviceError, Endian, Interrupt, InterruptKind};
use spapr_iommu::dma::OpenError;
use spapr_iommu::host::Errno;
use spapr_iommu::{Buffer, Dma, DmaMask, PciAddress};
use std::time::Duration;

const IDENTIFICATION: u64 = 0x00;
const ADDRESS: u64 = 0x08;
const COUNT: u64 = 0x10;
const START: u64 = 0x14;
const STATUS: u64 = 0x18;
const SUM: u64 = 0x20;

const DONE: u32 = 2;
const FAILED: u32 = 4;

/// The device takes a few microseconds.
const TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub(crate) enum AdderError {
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("no adder: register 0 reads {0:#x}")]
    NotAdder(u32),
    #[error("cannot wait for the interrupt: {0}")]
    Wait(Errno),
    #[error("the device does not end, its status reads {0:#x}")]
    Stuck(u32),
    #[error("the device could not read the memory")]
    Failed,
}

#[derive(Debug)]
pub(crate) struct Adder {
    // Dropped first: this takes the device off the bus.
    device: Device,
    registers: Bar,
    interrupt: Interrupt,
}

impl Adder {
    pub(crate) fn open(dma: &Dma, address: PciAddress, kind: InterruptKind) -> Result<Self, AdderError> {
        let device = dma.open(address, DmaMask::ALL)?;
        let registers = device.bar(0, Endian::Little)?;
        let found = registers.read(IDENTIFICATION)?;
        if found != 0xadd_e400 {
            return Err(AdderError::NotAdder(found));
        }
        let interrupt = device.enable_interrupts(kind, 1)?.remove(0);
        device.start_dma()?;
        Ok(Self { device, registers, interrupt })
    }

    /// Adds up all bytes of a buffer.
    pub(crate) fn sum(&self, buffer: &Buffer<u8>) -> Result<u64, AdderError> {
        self.registers.write(ADDRESS, buffer.iova().0)?;
        self.registers.write(COUNT, buffer.iova_range().len() as u32)?;
        self.registers.write(START, 1u32)?;
        let fired = self.interrupt.wait(Some(TIMEOUT)).map_err(AdderError::Wait)?;
        // Reports whether the device is frozen or gone.
        let status = self.registers.read(STATUS)?;
        if !fired {
            return Err(AdderError::Stuck(status));
        }
        self.registers.write(STATUS, DONE | FAILED)?;
        self.interrupt.rearm()?;
        if status == FAILED { Err(AdderError::Failed) } else { Ok(self.registers.read(SUM)?) }
    }

    /// Returns the device, for the recovery of its PE.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }
}
