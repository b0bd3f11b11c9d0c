//! First process of an emulated POWER machine.
//!
//! It sets up the machine as the manifest says, runs the commands, reports to the host over the
//! console and powers off. Started under another process ID it is one of the [`builtin`] commands.

mod builtin;
mod command;
mod console;
mod provoke;

use std::fs;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sys::reboot::{RebootMode, reboot};
use ppc64_init::manifest::{self, Manifest};
use ppc64_init::protocol::Report;
use ppc64_init::{kernel_log, memory, setup};

use console::Console;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        return builtin::run(std::env::args().skip(1).collect());
    }
    match setup::mount_file_systems().and_then(|()| Console::open()) {
        Ok(console) => {
            if let Err(error) = work(&console) {
                console.report(&Report::Failed(format!("{error:#}")));
            }
            console.report(&Report::Finished);
            console.drain();
        }
        // Without a console of its own, it can only use the one that the kernel gave it.
        Err(error) => eprintln!("init: {error:#}"),
    }
    // Returns only on failure; the kernel then panics over its lost first process, which the host
    // sees.
    let _ = reboot(RebootMode::RB_POWER_OFF);
    ExitCode::FAILURE
}

fn work(console: &Console) -> Result<()> {
    let manifest = fs::read(manifest::PATH).with_context(|| format!("read {}", manifest::PATH))?;
    let manifest: Manifest = serde_json::from_slice(&manifest).context("understand the manifest")?;

    // `quiet` hides warnings during boot; from here on, backtraces are printed as they occur.
    fs::write("/proc/sys/kernel/printk", "5").context("raise the console's log level")?;
    setup::load_modules(&manifest.modules)?;
    let bound = setup::bind_devices(manifest.host_driver)?;
    ensure!(bound.len() >= manifest.devices, "{} of {} test devices found: {bound:?}", bound.len(), manifest.devices);
    if let Some(pages) = manifest.huge_pages {
        memory::reserve_huge_pages(pages)?;
    }

    let mut facts = vec![machine()?];
    facts.extend(bound.iter().map(ToString::to_string));
    console.report(&Report::Ready(facts));

    command::warm_up(&manifest.environment)?;
    let free_kib = memory::settled_free_kib()?;
    console.report(&Report::MemoryBefore { free_kib });
    for (index, words) in manifest.commands.iter().enumerate() {
        let began = Instant::now();
        let status = command::run(console, words, &manifest.environment)?;
        let milliseconds = began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        console.report(&Report::Exited { command: index, status, milliseconds });
        if status != 0 {
            break;
        }
    }
    setup::empty_tmp()?;
    let free_kib = memory::settled_free_kib()?;
    console.report(&Report::MemoryAfter { free_kib });
    for line in kernel_log::faults()? {
        console.report(&Report::KernelLog(line));
    }
    Ok(())
}

/// Describes kernel, page size, memory and MMU in one line.
fn machine() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("read the release")?;
    let page = memory::page_size()?;
    let total = memory::meminfo_kib("MemTotal")?;
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").context("read cpuinfo")?;
    // Machines older than radix do not report it.
    let mmu = cpuinfo.lines().find_map(|line| line.strip_prefix("MMU")?.split(": ").nth(1)).unwrap_or("Hash");
    Ok(format!("Linux {}, {} KiB pages, {} MiB memory, {mmu} MMU", release.trim(), page / 1024, total / 1024))
}
