//! Prints what a driver finds on a controller after a reset: regions, interrupts, capabilities,
//! registers. `registers.json` is what QEMU's controller shows.

use crate::cases::{Kernel, config};
use crate::{devices, program};
use serde_json::{Value, json};
use spapr_iommu::device::Endian;
use spapr_iommu::dma::{Dma, DmaMask};
use spapr_iommu::registry::Registry;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

const CTRL: u64 = 0x0000;
/// CTRL: reset.
const RESET: u32 = 1 << 26;
/// Distance from the registers of one ring to those of the next.
const STRIDE: u64 = 0x100;
/// Number of words of RETA and RSSRK.
const TABLE: u64 = 32;
const KEY: u64 = 10;

/// Registers by name. Base addresses and lengths of rings follow.
const NAMES: [(&str, u64); 18] = [
    ("ctrl", CTRL),
    ("status", 0x0008),
    ("ctrl_ext", 0x0018),
    ("icr", 0x00c0),
    ("ims", 0x00d0),
    ("eiac", 0x00dc),
    ("iam", 0x00e0),
    ("ivar", 0x00e4),
    ("rctl", 0x0100),
    ("tctl", 0x0400),
    ("tipg", 0x0410),
    ("missed", 0x4010),
    ("received", 0x4074),
    ("sent", 0x4080),
    ("rxcsum", 0x5000),
    ("rfctl", 0x5008),
    ("rah", 0x5404),
    ("mrqc", 0x5818),
];
/// Registers of a ring: base, its upper half, length, head, tail, control, arbitration.
const RING: [u64; 7] = [0x00, 0x04, 0x08, 0x10, 0x18, 0x28, 0x40];
const RECEIVE: u64 = 0x2800;
const TRANSMIT: u64 = 0x3800;
const RETA: u64 = 0x5c00;

/// Reads the registers and prints them as JSON.
pub(crate) fn run(host: &Arc<Kernel>, address: Option<&str>) -> Result<(), Box<dyn Error>> {
    println!("{}", read(host, address)?);
    Ok(())
}

/// Resets a controller and reads it.
pub(crate) fn read(host: &Arc<Kernel>, address: Option<&str>) -> Result<Value, Box<dyn Error>> {
    let dma = Dma::with_registry(&Registry::new(host.clone()), config(host, false));
    let device = dma.open(devices::one(host.as_ref(), address)?.parse()?, DmaMask::ALL)?;
    let bar = device.bar(0, Endian::Little)?;
    bar.write(CTRL, bar.read::<u32>(CTRL)? | RESET)?;
    // Registers may be accessed again after a microsecond.
    std::thread::sleep(Duration::from_micros(10));
    let words = |offsets: Vec<u64>| offsets.into_iter().map(|at| bar.read::<u32>(at)).collect::<Result<Vec<_>, _>>();
    let mut registers = BTreeMap::new();
    for (name, at) in NAMES {
        registers.insert(name, json!(bar.read::<u32>(at)?));
    }
    // RXDCTL is the last one of a receive ring.
    for (name, base, parts) in [("receive", RECEIVE, &RING[..6]), ("transmit", TRANSMIT, &RING)] {
        let offsets = [0, STRIDE].iter().flat_map(|ring| parts.iter().map(move |part| base + ring + part));
        registers.insert(name, json!(words(offsets.collect())?));
    }
    registers.insert("rss", json!(words((0..TABLE + KEY).map(|word| RETA + 4 * word).collect())?));
    Ok(json!({ "pci": program::read_function(&device)?, "registers": registers }))
}
