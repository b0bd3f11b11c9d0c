//! What a driver finds in any PCI function: IDs, memory BARs, interrupts and capabilities.

use serde_json::{Value, json};
use spapr_iommu::device::{Device, Endian, InterruptKind};
use std::error::Error;

/// Offset of the BARs in the configuration space, and the bit that marks I/O space.
const BAR0: u64 = 0x10;
const IO: u32 = 1;
/// IDs of capabilities that drivers look for: power management, MSI, PCI Express, MSI-X.
const CAPABILITIES: [u8; 4] = [0x01, 0x05, 0x10, 0x11];
const MSIX: u8 = 0x11;

/// Reads them, as JSON.
pub(crate) fn read(device: &Device) -> Result<Value, Box<dyn Error>> {
    let config = device.config();
    let (vendor, id) = device.id();
    let mut bars = [0; 6];
    for (index, size) in (0..).zip(&mut bars) {
        // Not every host has I/O space.
        if config.read::<u32>(BAR0 + 4 * u64::from(index))? & IO == 0 {
            *size = device.bar(index, Endian::Little).map_or(0, |bar| bar.size());
        }
    }
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
