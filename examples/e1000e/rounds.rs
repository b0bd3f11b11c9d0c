//! Opens, uses and closes the controller many times, and checks that nothing is left.

use crate::buffers::Maps;
use crate::cases::{Kernel, config, plan};
use crate::driver::Wait;
use crate::packets::{Packets, SMALLEST};
use crate::program::Rounds;
use crate::traffic::Traffic;
use crate::{Options, devices};
use spapr_iommu::dma::{Dma, DmaMask};
use spapr_iommu::registry::Registry;
use std::error::Error;
use std::sync::Arc;

/// Packets of each round.
const PACKETS: usize = 64;
/// Runs `rounds` rounds.
pub(crate) fn run(host: &Arc<Kernel>, is_model: bool, options: &Options, rounds: u32) -> Result<(), Box<dyn Error>> {
    let address = &devices::one(host.as_ref(), options.device.as_deref())?;
    let moves = format!("{PACKETS} packets");
    let rounds = Rounds { host: host.as_ref(), is_model, address, rounds, moves, json: options.json };
    rounds.run(|| round(host, options, address))
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
