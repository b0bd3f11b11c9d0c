//! Measures the monitor `examples/linux`, compared with QEMU: both boot the same guest kernel, initial
//! file system and NVMe controller on the same host in the same boot, round by round.
//!
//! Times, throughput and memory are of runs that nothing else observes. QEMU counts its exits and
//! ioctls by trace events, in a run of its own in each round; `examples/linux` counts its own in
//! every run.
//!
//! ```text
//! ppc64/run --machine powernv9 --kernel 6.12-64k --kvm --device nvme --memory 3G --timeout 1800 -- beside-qemu --accel on
//! ppc64/run --machine pseries --kernel 6.12-64k --kvm --device nvme --memory 3G --timeout 3600 -- beside-qemu --accel off
//! ```
//!
//! On powernv the host's kernel answers TCE hypercalls for QEMU. In a pseries machine it cannot for
//! a guest with VFIO, and QEMU has no option that tells it not to: that is where QEMU without
//! acceleration can be seen.

mod counts;
mod linux;
mod monitor;
mod qemu;
mod table;

use clap::Parser;
use nix::mount::{MsFlags, mount};
use std::error::Error;

/// Measures `examples/linux` and QEMU in turns.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Rounds, each with both
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// MiB of guest RAM
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// Which TCE hypercalls the kernel answers for `examples/linux`
    #[arg(long, default_value = "on")]
    accel: String,
    /// Boot without SLOF: QEMU's smallest firmware
    #[arg(long)]
    vof: bool,
    /// Show what guests and monitors print
    #[arg(long)]
    verbose: bool,
    /// What `cargo bench` adds
    #[arg(long, hide = true)]
    bench: bool,
}

/// Further words for the kernel, as `examples/linux` has them.
pub(crate) const KERNEL: &str = "console=hvc0 panic=1 oops=panic quiet";

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    mount(Some("debugfs"), monitor::DEBUGFS, Some("debugfs"), MsFlags::empty(), None::<&str>)
        .map_err(|error| format!("debugfs: {error}"))?;
    let mut table = table::Table::default();
    for round in 0..options.rounds {
        // Neither always has the disk, the host's caches and its free memory as the other left them.
        if round % 2 == 0 {
            table.linux.push(linux::run(&options)?);
        }
        table.qemu.push(qemu::run(&options)?);
        if round % 2 != 0 {
            table.linux.push(linux::run(&options)?);
        }
        table.qemu_counts.push(qemu::count(&options)?);
        eprintln!("round {} of {}", round + 1, options.rounds);
    }
    print!("{table}");
    Ok(())
}
