//! First process of a Linux guest: tests processors and disks, and prints a line for each check.
//!
//! Its options come from the kernel's command line, after the dashes.

mod checks;
mod disk;
mod driver;
mod kexec;
mod measure;
mod memory;
mod replug;
mod rtas;

use std::fs::{self, OpenOptions};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use checks::Checks;
use clap::Parser;
use disk::{Disk, Kind, Part};
use nix::sys::reboot::{RebootMode, reboot};
use ppc64_init::{kernel_log, setup};
use ppc64_linux_init::{IDLE, READY, Restart, STARTED, STATUS};

/// How many parts are being written when the kernel crashes, and for how long.
const WRITERS: u32 = 4;
const WRITING: Duration = Duration::from_secs(1);

/// The tests to run.
#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Options {
    /// Number of this boot, from 0
    #[arg(long, default_value_t = 0)]
    boot: u32,
    /// Number of boots: before the last one the guest restarts itself
    #[arg(long, default_value_t = 1)]
    boots: u32,
    /// How it restarts itself after the first boot
    #[arg(long, value_enum, default_value_t = Restart::Reboot)]
    restart: Restart,
    /// Processors
    #[arg(long, default_value_t = 1)]
    cpus: usize,
    /// NVMe controllers
    #[arg(long, default_value_t = 0)]
    disks: u32,
    /// Seed of the data that is written: the same in all boots
    #[arg(long, default_value_t = 0)]
    seed: u32,
    /// There is a disk that the monitor emulates
    #[arg(long)]
    emulated: bool,
    /// How often the controllers' driver is unloaded and loaded again
    #[arg(long, default_value_t = 0)]
    reloads: u32,
    /// The machine is saved while disks are written, and another one continues
    #[arg(long)]
    saved: bool,
    /// Blocks of memory that are plugged and unplugged
    #[arg(long, default_value_t = 0)]
    plug: usize,
    /// Return the controllers of the host's disks while they are written, and take them again
    #[arg(long)]
    replug: bool,
    /// Measure the first disk
    #[arg(long)]
    measure: bool,
    /// Write to the first disk endlessly
    #[arg(long)]
    forever: bool,
}

impl Options {
    fn all_disks(&self) -> Vec<Disk> {
        let passed = (0..self.disks).map(Kind::Passed);
        let kinds = passed.chain(self.emulated.then_some(Kind::Emulated));
        kinds.map(|kind| Disk { kind, seed: self.seed }).collect()
    }
}

fn main() -> ExitCode {
    let mode = match start() {
        Ok(options) => {
            let mut checks = Checks::default();
            work(&options, &mut checks);
            let mode = next(&options, &mut checks);
            println!("{STATUS}{}", u8::from(checks.failed() > 0));
            mode
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

/// Prepares the next boot, if there is one. Returns how to get there; does not return if that is by
/// a crash.
fn next(options: &Options, checks: &mut Checks) -> RebootMode {
    match options.restart {
        _ if options.boot + 1 == options.boots => RebootMode::RB_POWER_OFF,
        Restart::Kexec if options.boot == 0 => {
            checks.run("the next kernel is loaded", || kexec::load(&format!("--boot {}", options.boot + 1)));
            RebootMode::RB_KEXEC
        }
        Restart::Crash if options.boot == 0 => {
            checks.run("the kernel crashes while disks are written", || crash(options));
            RebootMode::RB_POWER_OFF
        }
        _ => RebootMode::RB_AUTOBOOT,
    }
}

/// Makes the checks.
fn work(options: &Options, checks: &mut Checks) {
    checks.run("its kernel and user space run", kernel);
    checks.run(&format!("processors: {}", options.cpus), || processors(options.cpus));
    let disks = options.all_disks();
    if !disks.is_empty() {
        checks.run("the drivers of its disks load", driver::load);
    }
    if options.boot == 1 && options.restart == Restart::Crash {
        checks.run("it has the memory of the kernel that crashed", kexec::has_crashed);
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
    if options.saved {
        checks.run("disks read as they were written while the machine was saved and restored", || saved(&disks));
    }
    if options.plug > 0 {
        memory::plug(checks, options.plug, &disks, options.boot);
    }
    if options.replug {
        replug::run(checks, &disks, options.boot);
    }
    if options.measure
        && let Some(&disk) = disks.first()
    {
        checks.run("the first disk is measured", || measure::run(disk));
    }
    if options.forever
        && let Some(&disk) = disks.first()
    {
        checks.run("the first disk is written until the end", || disk::write_forever(disk, Part::Boot(0)));
    }
    checks.run("its kernel has no warnings", || {
        let faults = kernel_log::faults()?;
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    });
}

/// Crashes while several threads write to each disk. The next kernel has one processor.
fn crash(options: &Options) -> Result<()> {
    kexec::load_for_crash(&format!("--boot {} --cpus 1", options.boot + 1))?;
    for disk in options.all_disks() {
        for number in 0..WRITERS {
            thread::spawn(move || disk::write_forever(disk, Part::Scratch(number)));
        }
    }
    sleep(WRITING);
    kexec::crash()
}

/// Writes all disks and reads them, again and again, and meanwhile says that the machine may be
/// saved.
fn saved(disks: &[Disk]) -> Result<()> {
    let done = AtomicBool::new(false);
    let work = |disk: Disk| {
        for round in 1.. {
            // Other data each time.
            let disk = Disk { seed: disk.seed ^ round, ..disk };
            disk::check(disk, Part::Scratch(0)).with_context(|| format!("{disk}, round {round}"))?;
            if done.load(Ordering::Relaxed) {
                println!("{disk} was written {round} times");
                break;
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = disks.iter().map(|&disk| scope.spawn(move || work(disk))).collect();
        sleep(WRITING);
        println!("{READY}");
        sleep(WRITING);
        done.store(true, Ordering::Relaxed);
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })
}

/// Prints which kernel this is, and how long it took to get here.
fn kernel() -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let seconds = uptime.split(' ').next().unwrap_or_default();
    println!("Linux {}{STARTED}{seconds} s after its clock started", release.trim());
    Ok(())
}

/// Unloads and loads the driver, with requests of random size each time. Before and after, while
/// there is no driver, prints that.
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

/// Writes and reads all disks at the same time, after the parts of boots.
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
