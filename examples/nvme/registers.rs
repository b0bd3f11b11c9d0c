//! Prints what a driver finds on a controller before it does anything: regions, interrupts,
//! capabilities, registers, and the controller's IDENTIFY data. `registers.json` is what QEMU's
//! controller shows, in all of ppc64's machines.

use crate::driver::{Disk, Setup, Wait};
use crate::{Options, devices, program};
use serde_json::{Value, json};
use spapr_iommu::device::{Bar, Endian};
use spapr_iommu::dma::{Dma, DmaMask};
use spapr_iommu::host::Host;
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;

/// Reads them and prints them as JSON.
pub(crate) fn run(host: &Arc<dyn Host>, options: &Options) -> Result<(), Box<dyn Error>> {
    println!("{}", read(host, options.device.as_deref())?);
    Ok(())
}

/// Reads a controller that is not enabled; then enables it and requests its identity.
pub(crate) fn read(host: &Arc<dyn Host>, address: Option<&str>) -> Result<Value, Box<dyn Error>> {
    let address = devices::one(host.as_ref(), address)?.parse()?;
    let dma = Dma::with_registry(&Registry::new(host.clone()), crate::cases::config(1 << 20, false));
    let device = dma.open(address, DmaMask::ALL)?;
    let bar = device.bar(0, Endian::Little)?;
    let (pci, registers) = (program::read_function(&device)?, registers(&bar)?);
    drop((bar, device));
    let setup = Setup { mask: DmaMask::ALL, depth: 1, wait: Wait::Polling, kind: None };
    let disk = Disk::open(&dma, address, &setup)?;
    let identity = disk.identity();
    let identity = json!({ "max_transfer": identity.most, "caches": identity.caches, "block": disk.block() });
    Ok(json!({ "pci": pci, "registers": registers, "identity": identity }))
}

fn registers(bar: &Bar) -> Result<Value, Box<dyn Error>> {
    // Without the admin queues, which may be those of an earlier driver.
    Ok(json!({
        "cap": bar.read::<u64>(0x00)?, "vs": bar.read::<u32>(0x08)?, "intms": bar.read::<u32>(0x0c)?,
        "cc": bar.read::<u32>(0x14)?, "csts": bar.read::<u32>(0x1c)?,
    }))
}
