//! A small virtual machine monitor: a pseries guest with a device of the host, on KVM.
//!
//! It shows everything a VMM needs of this library: guest RAM, TCE tables, hypercalls and DDW RTAS
//! calls, and KVM acceleration. The guest is `ppc64/guest`, bare-metal code that makes the device
//! copy its memory and tries what it must not do. Its output is passed through, followed by the
//! monitor's counts. Run it on an emulated machine with KVM:
//!
//! ```text
//! ppc64/run --machine powernv9 --kernel 6.12-64k --kvm -- vmm --accel off
//! ```

mod counts;
mod device;
mod guest;
mod image;
#[path = "../linux/kvm/mod.rs"]
#[allow(dead_code, unused_imports, reason = "examples/linux uses all of it")]
mod kvm;
mod machine;
mod tree;
mod vectors;

use clap::{Parser, ValueEnum};
use machine::Machine;
use spapr_iommu::host::Host;
use spapr_iommu::host::vfio::Vfio;
use std::error::Error;
use std::iter::successors;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Runs a bare-metal guest with a device of the host.
#[derive(Debug, Parser)]
struct Options {
    /// Which TCE hypercalls the kernel answers
    #[arg(long, value_enum, default_value_t = Accel::Off)]
    accel: Accel,
    /// The device the guest gets: the first of its kind that is bound to vfio-pci, and the next one
    /// when it asks for it
    #[arg(long, value_enum, default_value_t = device::Kind::Edu)]
    device: device::Kind,
    /// The guest's image, an ELF file
    #[arg(long, default_value = "/bin/ppc64-guest")]
    guest: PathBuf,
    /// MiB of guest RAM
    #[arg(long, default_value_t = 64)]
    memory: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Accel {
    /// All: for guests that one trusts
    On,
    /// H_PUT_TCE and H_GET_TCE: for any guest
    PutOnly,
    /// None
    Off,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let chain = successors(Some(error.as_ref()), |&error| error.source()).map(ToString::to_string);
            eprintln!("vmm: {}", chain.collect::<Vec<_>>().join(": "));
            ExitCode::FAILURE
        }
    }
}

/// Returns whether everything was as it must be.
fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    let host = Arc::new(Vfio::new());
    let before = host.memlock()?.locked;
    let mut machine = Machine::new(&host, options)?;
    let failures = guest::run(&mut machine)?;
    let counts = machine.end()?;
    let leaked = host.memlock()?.locked.saturating_sub(before);
    print!("{counts}");
    println!("checks failed: {failures}, memory still locked: {leaked} bytes");
    let wrong = counts.wrong(options.accel == Accel::On);
    wrong.iter().for_each(|wrong| println!("FAIL {wrong}"));
    Ok(failures == 0 && leaked == 0 && wrong.is_empty())
}
