//! Prints what a driver finds on a controller before it does anything: regions, interrupts,
//! capabilities, registers, and what the controller says of itself. `registers.json` is what QEMU's
//! controller shows, in all of ppc64's machines.

use crate::driver::{Disk, Setup, Wait};
use crate::{Options, find};
use serde_json::{Value, json};
use spapr_iommu::device::{Bar, Device, Endian, InterruptKind};
use spapr_iommu::dma::{Dma, DmaMask};
use spapr_iommu::host::Host;
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;

/// IDs of capabilities that drivers look for: power management, MSI, PCI Express, MSI-X.
const CAPABILITIES: [u8; 4] = [0x01, 0x05, 0x10, 0x11];
const MSIX: u8 = 0x11;

/// Reads and prints them, as JSON.
pub(crate) fn run(host: &Arc<dyn Host>, options: &Options) -> Result<(), Box<dyn Error>> {
    println!("{}", read(host, options.device.as_deref())?);
    Ok(())
}

/// Reads a controller that is not enabled, and then enables it and asks for its identity.
pub(crate) fn read(host: &Arc<dyn Host>, address: Option<&str>) -> Result<Value, Box<dyn Error>> {
    let address = find::one(host.as_ref(), address)?.parse()?;
    let dma = Dma::with_registry(&Registry::new(host.clone()), crate::cases::config(1 << 20, false));
    let device = dma.open(address, DmaMask::ALL)?;
    let bar = device.bar(0, Endian::Little)?;
    let (pci, registers) = (pci(&device)?, registers(&bar)?);
    drop((bar, device));
    let setup = Setup { mask: DmaMask::ALL, depth: 1, wait: Wait::Polling, kind: None };
    let disk = Disk::open(&dma, address, &setup)?;
    let identity = disk.identity();
    let identity = json!({ "max_transfer": identity.most, "caches": identity.caches, "block": disk.block() });
    Ok(json!({ "pci": pci, "registers": registers, "identity": identity }))
}

fn pci(device: &Device) -> Result<Value, Box<dyn Error>> {
    let config = device.config();
    let (vendor, id) = device.id();
    let bars: Vec<_> = (0..6).map(|index| device.bar(index, Endian::Little).map_or(0, |bar| bar.size())).collect();
    use InterruptKind::{Error, Intx, Msi, Msix, Request};
    let count = |kind: InterruptKind| device.interrupts(kind).map_or(0, |info| info.count);
    let interrupts: Vec<_> = [Intx, Msi, Msix, Error, Request].map(count).into();
    let capabilities: Vec<_> = CAPABILITIES.into_iter().filter(|id| config.capability(*id).is_some()).collect();
    let msix = match config.capability(MSIX) {
        Some(at) => json!([config.read::<u32>(at + 4)?, config.read::<u32>(at + 8)?]),
        None => Value::Null,
    };
    Ok(json!({
        "vendor": vendor, "device": id, "class": config.read::<u32>(8)? >> 8, "bars": bars,
        "interrupts": interrupts, "capabilities": capabilities, "msix": msix,
    }))
}

fn registers(bar: &Bar) -> Result<Value, Box<dyn Error>> {
    // Without the admin queues, which may be those of an earlier driver.
    Ok(json!({
        "cap": bar.read::<u64>(0x00)?, "vs": bar.read::<u32>(0x08)?, "intms": bar.read::<u32>(0x0c)?,
        "cc": bar.read::<u32>(0x14)?, "csts": bar.read::<u32>(0x1c)?,
    }))
}
