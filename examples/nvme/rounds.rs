//! Opens, uses and closes the disk many times, and checks that nothing is left.

use crate::cases::{checksum, config, fill, part};
use crate::driver::{Disk, Operation, Setup, Wait};
use crate::program::{Machine, Rounds};
use crate::{Options, devices};
use fastrand::Rng;
use spapr_iommu::addr::Bytes;
use spapr_iommu::dma::{Dma, DmaMask};
use spapr_iommu::host::Host;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;

/// Bytes that each round writes and reads.
const BYTES: u64 = 64 << 10;
/// Runs `rounds` rounds.
pub(crate) fn run(machine: &Machine, options: &Options, rounds: u32) -> Result<(), Box<dyn Error>> {
    let host = &machine.host;
    let address = &devices::one(host.as_ref(), options.device.as_deref())?;
    let moves = format!("{} each way", Bytes(BYTES));
    let (is_model, json) = (machine.is_model, options.json);
    let rounds = Rounds { host: host.as_ref(), is_model, address, rounds, moves, json };
    rounds.run(|| round(host, options, address))
}

/// Sets up everything from scratch (registry, container, window, controller, queues) and releases
/// it.
fn round(host: &Arc<dyn Host>, options: &Options, address: &str) -> Result<(), Box<dyn Error>> {
    let mask = DmaMask::bits(options.mask.unwrap_or(64)).ok_or("1 to 64 bits")?;
    let dma = Dma::with_registry(&Registry::new(host.clone()), config(BYTES, mask < DmaMask::ALL));
    let wait = options.wait.map_or(Wait::Interrupts, Into::into);
    let mut disk =
        Disk::open(&dma, address.parse()?, &Setup { mask, depth: 32, wait, kind: options.interrupts.map(Into::into) })?;
    let mut rng = Rng::new();
    let first = rng.u64(0..disk.blocks().saturating_sub(BYTES / disk.block()));
    let out = dma.buffer::<u8>(BYTES as usize, Permission::Read)?;
    let back = dma.buffer::<u8>(BYTES as usize, Permission::ReadWrite)?;
    let written = fill(&out, 0, BYTES, &mut rng)?;
    disk.transfer(Operation::Write, first, part(&out, 0, BYTES)?)?;
    disk.transfer(Operation::Read, first, part(&back, 0, BYTES)?)?;
    let read = checksum(&back, 0, BYTES)?;
    disk.close()?;
    if read == written {
        Ok(())
    } else {
        Err(format!("written with CRC-32 {written:08x}, read with {read:08x}").into())
    }
}
