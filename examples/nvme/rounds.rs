//! Opens, uses and closes the disk many times, and checks that nothing is left.

use crate::cases::{checksum, config, fill, part};
use crate::driver::{Disk, Operation, Setup, Wait};
use crate::program::{Held, Machine};
use crate::{Options, devices};
use fastrand::Rng;
use spapr_iommu::addr::Bytes;
use spapr_iommu::dma::{Dma, DmaMask};
use spapr_iommu::host::Host;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that each round writes and reads.
const BYTES: u64 = 64 << 10;
/// Number of rounds that are not measured: they fill caches of kernel and allocator.
const WARM_UP: u32 = 3;
/// Interval between two lines of progress.
const EVERY: Duration = Duration::from_secs(20);

/// Runs `rounds` rounds, and a few before them.
pub(crate) fn run(machine: &Machine, options: &Options, rounds: u32) -> Result<(), Box<dyn Error>> {
    let host = &machine.host;
    let address = devices::one(host.as_ref(), options.device.as_deref())?;
    for _ in 0..WARM_UP {
        round(host, options, &address)?;
    }
    let before = Held::now(host.as_ref(), machine.is_model)?;
    let began = Instant::now();
    let mut reported = began;
    for done in 0..rounds {
        if reported.elapsed() > EVERY {
            reported = Instant::now();
            eprintln!("{done} rounds in {:.0?}", began.elapsed());
        }
        round(host, options, &address).map_err(|error| format!("round {done}: {error}"))?;
    }
    let took = began.elapsed();
    let after = Held::now(host.as_ref(), machine.is_model)?;
    let each = took / rounds.max(1);
    if options.json {
        let line = serde_json::json!({
            "device": address, "rounds": rounds, "seconds": took.as_secs_f64(), "locked": after.locked,
            "files": after.files, "missing_kib": after.missing_kib(&before),
        });
        println!("{line}");
    } else {
        println!("{rounds} rounds in {took:.1?}, {each:.2?} each, of {} each way", Bytes(BYTES));
        after.print(&before);
    }
    after.check(&before)
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
