//! Opens, uses and closes the controller many times, and checks that nothing is left.

use crate::buffers::Maps;
use crate::cases::{Kernel, config, plan};
use crate::driver::Wait;
use crate::packets::{Packets, SMALLEST};
use crate::program::Held;
use crate::traffic::Traffic;
use crate::{Options, devices};
use spapr_iommu::dma::{Dma, DmaMask};
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Packets of each round.
const PACKETS: usize = 64;
/// Number of rounds that are not measured: they fill caches of kernel and allocator.
const WARM_UP: u32 = 3;
/// Interval between two lines of progress.
const EVERY: Duration = Duration::from_secs(20);

/// Runs `rounds` rounds, and a few before them.
pub(crate) fn run(host: &Arc<Kernel>, is_model: bool, options: &Options, rounds: u32) -> Result<(), Box<dyn Error>> {
    let address = devices::one(host.as_ref(), options.device.as_deref())?;
    for _ in 0..WARM_UP {
        round(host, options, &address)?;
    }
    let before = Held::now(host.as_ref(), is_model)?;
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
    let after = Held::now(host.as_ref(), is_model)?;
    if options.json {
        let line = serde_json::json!({
            "device": address, "rounds": rounds, "seconds": took.as_secs_f64(), "locked": after.locked,
            "files": after.files, "missing_kib": after.missing_kib(&before),
        });
        println!("{line}");
    } else {
        println!("{rounds} rounds in {took:.1?}, {:.2?} each, of {PACKETS} packets", took / rounds.max(1));
        after.print(&before);
    }
    after.check(&before)
}

/// Sets up everything from scratch (registry, container, window, controller, rings), sends packets
/// and releases it.
fn round(host: &Arc<Kernel>, options: &Options, address: &str) -> Result<(), Box<dyn Error>> {
    let mask = DmaMask::bits(options.mask.unwrap_or(64)).ok_or("1 to 64 bits")?;
    let dma = Dma::with_registry(&Registry::new(host.clone()), config(host, mask < DmaMask::ALL));
    let device = dma.open(address.parse()?, mask)?;
    let wait = options.wait.map_or(Wait::Interrupts, Into::into);
    let plan = plan(options, wait, options.maps.unwrap_or(Maps::Each));
    let mut traffic = Traffic::start(&dma, &device, &plan)?;
    let mut packets = Packets::new(SMALLEST..=plan.largest, traffic.port.address());
    traffic.run(&mut packets, PACKETS)?;
    traffic.close()?;
    host.take();
    Ok(())
}
