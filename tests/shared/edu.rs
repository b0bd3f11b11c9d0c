//! A driver for QEMU's `edu` device, bare: one transfer of up to 4 KiB each way. Shared by the test programs that run on real
//! kernels.

use spapr_iommu::host::{Errno, Fd, Host, Region};
use spapr_iommu::uapi::vfio::{PCI_BAR0_REGION_INDEX, PCI_CONFIG_REGION_INDEX};
use std::thread::sleep;
use std::time::{Duration, Instant};

const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
/// Where the DMA engine sees the device's buffer.
const BUFFER: u64 = 0x4_0000;
pub(crate) const BUFFER_SIZE: u64 = 4096;
const START: u64 = 1;
const TO_MEMORY: u64 = 2;
const PCI_COMMAND: u64 = 4;
const MEMORY_AND_MASTER: u8 = 6;
const PATIENCE: Duration = Duration::from_secs(20);

/// Reads bytes at `from` into the device and writes them to `to`.
pub(crate) fn copy(host: &dyn Host, device: Fd, from: u64, to: u64, len: u64) -> Result<(), Errno> {
    if len > BUFFER_SIZE {
        return Err(Errno::EINVAL);
    }
    let config = host.region(device, PCI_CONFIG_REGION_INDEX)?;
    let mut command = [0; 2];
    config.read(PCI_COMMAND, &mut command)?;
    command[0] |= MEMORY_AND_MASTER;
    config.write(PCI_COMMAND, &command)?;
    let bar = host.region(device, PCI_BAR0_REGION_INDEX)?;
    transfer(&*bar, from, BUFFER, len, START)?;
    transfer(&*bar, BUFFER, to, len, START | TO_MEMORY)
}

fn transfer(bar: &dyn Region, source: u64, destination: u64, count: u64, command: u64) -> Result<(), Errno> {
    for (register, value) in [(SOURCE, source), (DESTINATION, destination), (COUNT, count), (COMMAND, command)] {
        // Registers are in the target's order, which is big endian.
        bar.write(register, &value.to_be_bytes())?;
    }
    let began = Instant::now();
    loop {
        let mut command = [0; 8];
        bar.read(COMMAND, &mut command)?;
        match u64::from_be_bytes(command) {
            u64::MAX => return Err(Errno::EIO),
            command if command & START == 0 => return Ok(()),
            _ if began.elapsed() > PATIENCE => return Err(Errno::ETIMEDOUT),
            _ => sleep(Duration::from_millis(2)),
        }
    }
}
