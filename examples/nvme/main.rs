//! An NVMe driver in user space, and a program that demonstrates it.
//!
//! The driver is `driver/`. The program writes random data to the first NVMe disk that is bound to
//! vfio-pci, from any offset of a buffer and in commands of any length, reads it back into another
//! buffer and compares checksums: in the dynamic and in the default window, one command at a time
//! and 32, by interrupts and by polling. **Data on the disk is lost.**
//!
//! On a machine that is not POWER it runs on a model with a disk of memory, which completes
//! commands within the write to the doorbell; so the driver never sleeps, and counts no interrupts:
//!
//! ```text
//! cargo run --example nvme
//! cargo run --example nvme -- --host model:pseries-4k --share
//! ```
//!
//! On emulated machines with QEMU's controllers:
//!
//! ```text
//! ppc64/run --machine powernv9 --kernel 6.12-64k --device nvme -- nvme
//! ppc64/run --machine pseries --kernel 6.12 --device nvme --device nvme -- nvme --share
//! ppc64/run --machine pseries --kernel 6.12 --device nvme --timeout 3000 -- nvme --rounds 1000
//! ```

mod cases;
mod devices;
mod driver;
mod program;
mod registers;
mod rounds;
mod share;
#[cfg(test)]
mod tests;

use clap::Parser;
use program::{How, Kind, Machine};
use std::error::Error;
use std::process::ExitCode;

/// Writes random data to an NVMe disk and reads it back. What is on the disk is lost.
#[derive(Debug, Parser)]
#[command(name = "nvme")]
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
    /// Commands in flight [default: 1 and 32]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    depth: Option<u16>,
    /// How to learn of completions [default: each]
    #[arg(long, value_enum)]
    wait: Option<How>,
    /// Interrupts to use [default: MSI-X, else MSI, else INTx]
    #[arg(long, value_enum)]
    interrupts: Option<Kind>,
    /// Blocks to write and read
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u64).range(1..))]
    blocks: u64,
    /// Open, use and close the disk that many times, and check that nothing is left
    #[arg(long, value_name = "N", conflicts_with_all = ["depth", "blocks", "share"])]
    rounds: Option<u32>,
    /// Two disks, in different groups, share a buffer
    #[arg(long, conflicts_with_all = ["device", "depth", "wait", "mask"])]
    share: bool,
    /// Print what a driver finds on the controller, as JSON, and nothing else
    #[arg(long, conflicts_with_all = ["rounds", "share"])]
    registers: bool,
    /// Print JSON, a line for each case
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nvme: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    let machine = Machine::new(options.host.as_deref(), devices::with_disks)?;
    match options.rounds {
        Some(rounds) => rounds::run(&machine, options, rounds),
        None if options.registers => registers::run(&machine.host, options),
        None if options.share => share::run(&machine.host, options),
        None => cases::run(&machine.host, options),
    }
}
