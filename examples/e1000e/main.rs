//! An Ethernet driver in user space, and a program that demonstrates it.
//!
//! The driver is `driver/`, for Intel's 82574L (QEMU's `e1000e`). The program sends packets of all
//! sizes with random content by the first controller that is bound to vfio-pci, which returns them
//! to itself, and checks that each arrives once and unchanged: in the dynamic and in the default
//! window, by interrupts and by polling, with each packet mapped while the controller uses it, in
//! one piece and in two, and with memory mapped once.
//!
//! On a machine that is not POWER it runs on a model, which sends and receives within the write to
//! the tail of a ring:
//!
//! ```text
//! cargo run --example e1000e
//! cargo run --example e1000e -- --host model:pseries-4k --largest 9014
//! ```
//!
//! On emulated machines with QEMU's controller:
//!
//! ```text
//! ppc64/run --machine powernv9 --kernel 6.12-64k --device e1000e -- e1000e
//! ppc64/run --machine pseries --kernel 6.12 --device e1000e -- e1000e --largest 9014
//! ppc64/run --machine pseries --kernel 6.12 --device e1000e --timeout 3000 -- e1000e --rounds 1000
//! ```

mod buffers;
mod cases;
mod devices;
mod driver;
mod packets;
#[path = "../nvme/program.rs"]
mod program;
mod registers;
mod rounds;
#[cfg(test)]
mod tests;
mod traffic;

use buffers::Maps;
use clap::Parser;
use program::{How, Kind, Machine};
use spapr_iommu::model::Recording;
use std::error::Error;
use std::process::ExitCode;
use std::sync::Arc;

/// Sends packets by an 82574L Ethernet controller that returns them to itself.
#[derive(Debug, Parser)]
#[command(name = "e1000e")]
struct Options {
    /// The running kernel (vfio), or a model of one, such as model:pseries-64k [default: vfio on
    /// POWER, else model:powernv9-64k]
    #[arg(long)]
    host: Option<String>,
    /// PCI address of the controller [default: the first that is bound to vfio-pci]
    #[arg(long)]
    device: Option<String>,
    /// Bits of bus addresses: 64 for the dynamic window, 32 for the default window [default: each]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    mask: Option<u32>,
    /// How to learn of packets [default: each]
    #[arg(long, value_enum)]
    wait: Option<How>,
    /// Interrupts to use [default: MSI-X, else MSI, else INTx]
    #[arg(long, value_enum)]
    interrupts: Option<Kind>,
    /// When memory for packets is mapped [default: each]
    #[arg(long, value_enum)]
    maps: Option<Maps>,
    /// Number of packets in each case
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    packets: u32,
    /// Bytes of the largest packet
    #[arg(long, default_value_t = 1514, value_parser = clap::value_parser!(u32).range(60..=9014))]
    largest: u32,
    /// Packets in flight
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    depth: u32,
    /// Open, use and close the controller that many times, and check that nothing is left
    #[arg(long, value_name = "N", conflicts_with = "packets")]
    rounds: Option<u32>,
    /// Print what a driver finds on the controller, as JSON, and nothing else
    #[arg(long, conflicts_with = "rounds")]
    registers: bool,
    /// Print JSON, a line for each case
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e1000e: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let Machine { host, is_model } = Machine::new(options.host.as_deref(), devices::with_controller)?;
    let host = Arc::new(Recording::new(host));
    match options.rounds {
        Some(rounds) => rounds::run(&host, is_model, options, rounds),
        None if options.registers => registers::run(&host, options.device.as_deref()),
        None => cases::run(&host, options),
    }
}
