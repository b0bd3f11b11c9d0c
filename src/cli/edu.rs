//! A driver for QEMU's `edu` device: 4 KiB of DMA at a time, between memory and a buffer in the
//! device.

use crate::machine::is_vfio;
use spapr_iommu::addr::IovaRange;
use spapr_iommu::host::{Errno, GroupFacts, Region};
use spapr_iommu::space::{AddressSpace, AttachError, DeviceRegion, RawDevice};
use spapr_iommu::uapi::vfio::{PCI_BAR0_REGION_INDEX, PCI_CONFIG_REGION_INDEX};
use std::time::{Duration, Instant};

const ID: (u16, u16) = (0x1234, 0x11e8);

const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
/// Bus address of the device's buffer as its DMA engine sees it.
const BUFFER: u64 = 0x4_0000;
const BUFFER_SIZE: u64 = 4096;
const START: u64 = 1;
const TO_MEMORY: u64 = 2;

const PCI_COMMAND: u64 = 4;
const PCI_COMMAND_MEMORY: u16 = 2;
const PCI_COMMAND_MASTER: u16 = 4;

/// A transfer takes about 100 ms.
const TIMEOUT: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Why a device did not do DMA.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EduError {
    #[error("group {group} has no edu device (1234:11e8) bound to vfio-pci: give the machine one with `-device edu`")]
    None { group: usize },
    #[error(transparent)]
    Open(#[from] AttachError),
    #[error("cannot access the device: {0}")]
    Access(Errno),
    #[error("the device reads as all ones: it is gone, or its PE is frozen")]
    Gone,
    #[error("a DMA transfer did not finish within {} s", TIMEOUT.as_secs())]
    Stuck,
}

impl From<Errno> for EduError {
    fn from(errno: Errno) -> Self {
        Self::Access(errno)
    }
}

impl EduError {
    /// Its own codes; those of [`Self::Open`] are the library's.
    pub(crate) const CODES: [&str; 2] = ["no-edu", "dma-failed"];

    /// Returns a stable name of the cause, in kebab case.
    pub(crate) fn code(&self) -> &'static str {
        let [none, failed] = Self::CODES;
        match self {
            Self::None { .. } => none,
            Self::Open(error) => error.code(),
            Self::Access(_) | Self::Gone | Self::Stuck => failed,
        }
    }
}

/// An `edu` device, ready for DMA.
pub(crate) struct Edu {
    bar: DeviceRegion,
    _device: RawDevice,
}

impl Edu {
    /// Opens the first such device of a group; `index` is the scenario's number of the group.
    pub(crate) fn open(space: &AddressSpace, group: &GroupFacts, index: usize) -> Result<Self, EduError> {
        let usable = group.devices.iter().find(|device| device.id == ID && is_vfio(device.driver.as_deref()));
        let found = usable.ok_or(EduError::None { group: index })?;
        let device = space.device(group.number, &found.address)?;
        enable(&*device.region(PCI_CONFIG_REGION_INDEX)?)?;
        Ok(Self { bar: device.region(PCI_BAR0_REGION_INDEX)?, _device: device })
    }

    /// Reads `from` and writes the data to `to`, which has the same length. Reports progress to
    /// `done`.
    pub(crate) fn copy(&self, from: IovaRange, to: IovaRange, done: impl FnMut(u64)) -> Result<(), EduError> {
        copy(&*self.bar, from.start().0, to.start().0, from.len(), done)
    }
}

/// Enables memory access and DMA of a device.
pub(crate) fn enable(config: &dyn Region) -> Result<(), Errno> {
    let mut command = [0; 2];
    config.read(PCI_COMMAND, &mut command)?;
    // The configuration space is little endian; memory space must answer before the BAR is touched.
    let command = u16::from_le_bytes(command) | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    config.write(PCI_COMMAND, &command.to_le_bytes())
}

/// Reads bytes at `from` and writes them to `to`, piece by piece.
pub(crate) fn copy(bar: &dyn Region, from: u64, to: u64, len: u64, mut done: impl FnMut(u64)) -> Result<(), EduError> {
    let mut at = 0;
    while at < len {
        let count = BUFFER_SIZE.min(len - at);
        transfer(bar, from.wrapping_add(at), BUFFER, count, START)?;
        transfer(bar, BUFFER, to.wrapping_add(at), count, START | TO_MEMORY)?;
        at += count;
        done(at);
    }
    Ok(())
}

fn transfer(bar: &dyn Region, source: u64, destination: u64, count: u64, command: u64) -> Result<(), EduError> {
    for (register, value) in [(SOURCE, source), (DESTINATION, destination), (COUNT, count), (COMMAND, command)] {
        // Registers are in the target's byte order, and QEMU's target is big endian whatever the
        // guest's kernel is.
        bar.write(register, &value.to_be_bytes())?;
    }
    let began = Instant::now();
    loop {
        let mut command = [0; 8];
        bar.read(COMMAND, &mut command)?;
        match u64::from_be_bytes(command) {
            u64::MAX => return Err(EduError::Gone),
            command if command & START == 0 => return Ok(()),
            _ if began.elapsed() > TIMEOUT => return Err(EduError::Stuck),
            _ => std::thread::sleep(POLL_INTERVAL),
        }
    }
}
