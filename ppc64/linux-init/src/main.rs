//! First process of a Linux guest: tests processors and disks, and prints a line for each check.
//!
//! Its options come from the kernel's command line, after the dashes.

mod checks;
mod disk;
mod driver;
mod measure;

use std::fs::{self, OpenOptions};
use std::process::ExitCode;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use checks::Checks;
use clap::Parser;
use disk::{Disk, Kind, Part};
use nix::sys::reboot::{RebootMode, reboot};
use ppc64_init::{kernel_log, setup};
use ppc64_linux_init::{IDLE, STARTED, STATUS};

/// What there is to try.
#[derive(Debug, Parser)]
struct Options {
    /// Which boot this is, from 0
    #[arg(long, default_value_t = 0)]
    boot: u32,
    /// How many there are: before the last one the guest restarts itself
    #[arg(long, default_value_t = 1)]
    boots: u32,
    /// Processors
    #[arg(long, default_value_t = 1)]
    cpus: usize,
    /// NVMe controllers
    #[arg(long, default_value_t = 0)]
    disks: u32,
    /// Of the data that is written: the same in all boots
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// There is a disk that the monitor emulates
    #[arg(long)]
    emulated: bool,
    /// How often the controllers' driver is unloaded and loaded again
    #[arg(long, default_value_t = 0)]
    reloads: u32,
    /// Measure the first disk
    #[arg(long)]
    measure: bool,
    /// Go on writing to the first disk and never end
    #[arg(long)]
    forever: bool,
}

fn main() -> ExitCode {
    let mode = match start() {
        Ok(options) => {
            let failed = work(&options);
            println!("{STATUS}{}", u8::from(failed > 0));
            if options.boot + 1 < options.boots { RebootMode::RB_AUTOBOOT } else { RebootMode::RB_POWER_OFF }
        }
        Err(error) => {
            eprintln!("init: {error:#}\n{STATUS}2");
            RebootMode::RB_POWER_OFF
        }
    };
    nix::unistd::sync();
    // Returns only on failure; the kernel then panics over its lost first process.
    let _ = reboot(mode);
    ExitCode::FAILURE
}

/// Mounts, opens the console and reads the options.
fn start() -> Result<Options> {
    setup::mount_file_systems()?;
    let console = OpenOptions::new().write(true).open("/dev/console").context("open /dev/console")?;
    nix::unistd::dup2_stdout(&console)?;
    nix::unistd::dup2_stderr(&console)?;
    Ok(Options::try_parse()?)
}

/// Makes the checks. Returns how many failed.
fn work(options: &Options) -> u32 {
    let mut checks = Checks::default();
    checks.run("its kernel and user space run", kernel);
    checks.run(&format!("processors: {}", options.cpus), || processors(options.cpus));
    let passed = (0..options.disks).map(Kind::Passed);
    let kinds = passed.chain(options.emulated.then_some(Kind::Emulated));
    let disks: Vec<Disk> = kinds.map(|kind| Disk { kind, seed: options.seed }).collect();
    if !disks.is_empty() {
        checks.run("the drivers of its disks load", driver::load);
    }
    for &disk in &disks {
        checks.run(&format!("{disk} reads as it was written"), || disk::check(disk, Part::Boot(options.boot)));
        for boot in options.boot.saturating_sub(disk::KEPT)..options.boot {
            checks.run(&format!("{disk} has what boot {boot} wrote"), || disk::verify(disk, Part::Boot(boot)));
        }
    }
    if disks.len() > 1 {
        checks.run("all disks read as they were written at once", || at_once(&disks, options.boot));
    }
    if options.reloads > 0 {
        let name = format!("the driver of the disks is loaded {} times, with I/O of random sizes", options.reloads);
        checks.run(&name, || flood(&disks, options));
        for &disk in &disks {
            let name = format!("{disk} has what was written after {} times", options.reloads);
            checks.run(&name, || disk::verify(disk, Part::Boot(options.boot)));
        }
    }
    if options.measure
        && let Some(&disk) = disks.first()
    {
        checks.run("the first disk is measured", || measure::run(disk));
    }
    if options.forever {
        checks.run("the disk is written until the end", disk::write_forever);
    }
    checks.run("its kernel has no warnings", || {
        let faults = kernel_log::faults()?;
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    });
    checks.failed()
}

/// Says which kernel it is, and how long it took to come here.
fn kernel() -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split(' ').next().unwrap_or_default();
    println!("Linux {}{STARTED}{seconds} s after its clock started", release.trim());
    Ok(())
}

/// Unloads and loads the driver, with requests of random size each time. Before and after, when
/// there is no driver, says so.
fn flood(disks: &[Disk], options: &Options) -> Result<()> {
    driver::unload()?;
    println!("{IDLE}");
    for round in 0..options.reloads {
        driver::load()?;
        let flood = |&disk| disk::flood(disk, Part::Boot(options.boot), round).with_context(|| disk.to_string());
        disks.iter().try_for_each(flood)?;
        driver::unload().with_context(|| format!("round {round}"))?;
    }
    println!("{IDLE}");
    driver::load()
}

/// Writes and reads all disks side by side, past what boots wrote before.
fn at_once(disks: &[Disk], boot: u32) -> Result<()> {
    thread::scope(|scope| {
        let work =
            |disk: Disk| scope.spawn(move || disk::check(disk, Part::AtOnce(boot)).with_context(|| disk.to_string()));
        let threads: Vec<_> = disks.iter().map(|disk| work(*disk)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

fn processors(wanted: usize) -> Result<()> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let found = text.lines().filter(|line| line.starts_with("processor")).count();
    ensure!(found == wanted, "{found} are online");
    Ok(())
}
