//! Measures the monitor `examples/linux`, compared with QEMU: both boot the same guest kernel,
//! initial file system and NVMe controller on the same host in the same boot, round by round.
//!
//! Times, throughput and memory are of runs that nothing else observes. QEMU counts its exits and
//! ioctls by trace events, in a run of its own in each round; `examples/linux` counts its own in
//! every run.
//!
//! ```text
//! ppc64/run --machine powernv9 --kernel 6.12-64k --kvm --device nvme --memory 3G --timeout 900 \
//!     -- beside-qemu --accel on --then beside-qemu --accel off
//! ```

mod counts;
mod linux;
mod monitor;
mod qemu;
mod refuse;
mod table;

use clap::{Parser, ValueEnum};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use std::error::Error;

/// Measures `examples/linux` and QEMU alternately.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Rounds, each with both
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// RAM of the guest in MiB
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// Whether the kernel answers TCE hypercalls
    #[arg(long, value_enum, default_value_t = Accel::On)]
    accel: Accel,
    /// Boot without SLOF: QEMU's smallest firmware
    #[arg(long)]
    vof: bool,
    /// Show what guests and monitors print
    #[arg(long)]
    verbose: bool,
    /// Added by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Accel {
    On,
    Off,
}

/// Additional words for the guest's kernel, as `examples/linux` passes them.
pub(crate) const KERNEL: &str = "console=hvc0 panic=1 oops=panic quiet";

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    match mount(Some("debugfs"), monitor::DEBUGFS, Some("debugfs"), MsFlags::empty(), None::<&str>) {
        // An earlier run installed it.
        Ok(()) | Err(Errno::EBUSY) => {}
        Err(error) => return Err(format!("debugfs: {error}").into()),
    }
    if options.accel == Accel::Off {
        refuse::acceleration()?;
    }
    let mut table = table::Table::default();
    for round in 0..options.rounds {
        // Alternate, so that neither always finds the disk, the host's caches and its free memory
        // as the other left them.
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
