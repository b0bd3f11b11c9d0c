//! A virtual machine monitor for Linux guests: boots a distribution's kernel under KVM with NVMe
//! controllers of the host.
//!
//! All DMA is the library's: guest RAM, TCE tables, windows, hypercalls, acceleration. The rest is
//! what a pSeries guest needs to boot, a file for each job; `docs/guest.md` walks through them. Run
//! it on an emulated machine with KVM:
//!
//! ```text
//! ppc64/run --machine powernv9 --kernel 6.12-64k --kvm --device nvme -- linux
//! ```

mod bar;
mod blocks;
mod config;
mod connector;
mod console;
mod cpus;
mod device;
mod drc;
mod exits;
mod fdt;
mod function;
mod gate;
mod hcall;
#[path = "../vmm/image.rs"]
mod image;
mod killed;
mod kvm;
mod machine;
mod memory;
mod messages;
mod next;
mod options;
mod pci;
mod plug;
mod processor;
mod ram;
mod report;
mod rtas;
mod run;
mod saved;
mod slot;
mod snapshot;
mod tree;
mod virtio;

use clap::Parser;
use cpus::End;
use machine::Machine;
use options::Options;
use report::Report;
use spapr_iommu::host::Host;
use spapr_iommu::host::vfio::Vfio;
use std::error::Error;
use std::iter::successors;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

fn main() -> ExitCode {
    let options = Options::parse();
    let result = if options.kill {
        kill().map(|killed| if killed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    } else {
        run(&options).map(|report| {
            print!("{report}");
            report.status()
        })
    };
    match result {
        Ok(status) => status,
        Err(error) => {
            eprintln!("linux: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Returns the messages of an error and of its causes.
fn chain(error: &dyn Error) -> String {
    successors(Some(error), |&error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Runs the same monitor as a child that is killed.
fn kill() -> Result<bool, Box<dyn Error>> {
    let words = std::env::args().skip(1).filter(|word| word != "--kill");
    killed::run(words.chain(["--init".into(), "--forever".into()]))
}

fn run(options: &Options) -> Result<Report, Box<dyn Error>> {
    let host = Arc::new(Vfio::new());
    let before = host.memlock()?.locked;
    let (mut machine, mut vcpus) = Machine::new(Arc::clone(&host), options)?;
    let _server = if options.inspect { Some(machine.inspector().listen()?) } else { None };
    let mut report = Report::new(options);
    // Data that an earlier guest wrote to the same disks differs.
    let seed = fastrand::u32(..);
    for _ in 0..options.boots {
        if report.boots() > 0 {
            machine.reset()?;
        }
        match &options.restore {
            Some(file) if report.boots() == 0 => machine.restore(file)?,
            _ => machine.boot(options, &arguments(options, &machine, report.kernels(), seed))?,
        }
        let end = run::run(&machine, &mut vcpus, Duration::from_secs(options.limit));
        report.take(&machine, &vcpus, end.clone());
        if end != End::Reboot || report.kernels() >= options.boots {
            break;
        }
    }
    if let Some(file) = options.save.as_ref().filter(|_| report.is_ready()) {
        machine.save(file)?;
    }
    drop(vcpus);
    machine.end()?;
    report.leaked(host.memlock()?.locked.saturating_sub(before));
    Ok(report)
}

/// Returns the kernel's command line; words after the dashes are for its first process.
fn arguments(options: &Options, machine: &Machine, boot: u32, seed: u32) -> String {
    let Options { append, cpus, boots, init, restart, .. } = options;
    let disks = machine.devices.len();
    let emulated = if machine.disk.is_some() { "--emulated" } else { "" };
    let saved = if options.save.is_some() { "--saved" } else { "" };
    let crash = next::crash_kernel(options);
    // Memory that the kernel uses for itself could not be unplugged.
    let (movable, plug) = match options.plug {
        0 => ("", String::new()),
        blocks => ("movable_node", format!("--plug {blocks}")),
    };
    format!(
        "console=hvc0 panic=1 oops=panic {crash} {movable} {append} -- --boot {boot} --boots {boots} \
         --restart {restart} --cpus {cpus} --disks {disks} --seed {seed} {emulated} {saved} {plug} {init}"
    )
}
