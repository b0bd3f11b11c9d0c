//! Returns a disk's controller while it is written, and takes it again, as drmgr does.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};

use crate::checks::Checks;
use crate::disk::{self, BYTES, Disk, Kind, Part};
use crate::memory::DLPAR;
use crate::rtas;

/// Devices by address, and a file that makes the kernel search the bus.
const PCI: &str = "/sys/bus/pci";

/// Indicators, and their values.
const ISOLATION: u32 = 9001;
const ALLOCATION: u32 = 9003;
const OFF: u32 = 0;
const ON: u32 = 1;

/// Parts of the disk that are written meanwhile and afterwards.
const MEANWHILE: Part = Part::Scratch(8);
const AFTERWARDS: Part = Part::Scratch(9);
/// Requests made before the controller leaves.
const REQUESTS: u64 = 20;

/// Removes the controllers of the host's disks and takes them back, one after the other.
pub(crate) fn run(checks: &mut Checks, disks: &[Disk], boot: u32) {
    for &disk in disks {
        let Kind::Passed(number) = disk.kind else { continue };
        let others: Vec<Disk> = disks.iter().copied().filter(|other| other.to_string() != disk.to_string()).collect();
        let mut index = Err(anyhow!("it did not leave"));
        checks.run(&format!("{disk} leaves while it is written"), || {
            index = leave(disk, number);
            index.as_ref().map(drop).map_err(|error| anyhow!("{error:#}"))
        });
        for &other in &others {
            checks.run(&format!("{other} reads as it was written without {disk}"), || {
                disk::check(other, Part::Boot(boot))
            });
        }
        checks.run(&format!("{disk} returns"), || {
            arrive(index?)?;
            disk::open(disk).map(drop)
        });
        checks.run(&format!("{disk} has what was written before"), || disk::verify(disk, Part::Boot(boot)));
        checks.run(&format!("{disk} reads as it was written then"), || disk::check(disk, AFTERWARDS));
    }
}

/// Returns the address of the controller in a slot, which are numbered from 1.
fn address(number: u32) -> Result<String> {
    let end = format!(":{:02x}.0", number + 1);
    let all = fs::read_dir(format!("{PCI}/devices")).context("list devices")?.flatten();
    let mut names = all.into_iter().filter_map(|entry| entry.file_name().into_string().ok());
    names.find(|name| name.ends_with(&end)).with_context(|| format!("no device is at {end}"))
}

/// Makes the kernel release the controller while a thread writes, then returns it to the firmware.
/// Returns the index of its connector.
fn leave(which: Disk, number: u32) -> Result<u32> {
    let device = format!("{PCI}/devices/{}", address(number)?);
    let index = rtas::cell(&format!("{device}/of_node/ibm,my-drc-index"))?;
    let file = disk::open(which)?;
    let (done, leaves) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let writer = scope.spawn(|| write(&file, &done, &leaves));
        while done.load(Ordering::Relaxed) < REQUESTS && !writer.is_finished() {
            thread::sleep(Duration::from_millis(1));
        }
        leaves.store(true, Ordering::Relaxed);
        fs::write(format!("{device}/remove"), "1").context("remove the device")?;
        writer.join().map_err(|_| anyhow!("the writer panicked"))?
    })?;
    drop(file);
    rtas::set_indicator(ISOLATION, index, OFF)?;
    rtas::set_indicator(ALLOCATION, index, OFF)?;
    tree("remove", index)?;
    Ok(index)
}

/// Takes the controller from the firmware and makes the kernel find it.
fn arrive(index: u32) -> Result<()> {
    rtas::set_indicator(ALLOCATION, index, ON)?;
    rtas::set_indicator(ISOLATION, index, ON)?;
    tree("add", index)?;
    fs::write(format!("{PCI}/rescan"), "1").context("search the bus")
}

/// Makes the kernel add or remove the controller's node of the device tree.
fn tree(action: &str, index: u32) -> Result<()> {
    let request = format!("dt {action} index {index:#x}");
    fs::write(DLPAR, &request).with_context(|| format!("write {request:?} to {DLPAR}"))
}

/// Writes until that fails, as it should once the disk leaves.
fn write(disk: &File, done: &AtomicU64, leaves: &AtomicBool) -> Result<()> {
    let write = |at, buffer: &mut [u8]| {
        disk.write_all_at(buffer, at)?;
        done.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    let error = loop {
        if let Err(error) = disk::each(MEANWHILE.range(BYTES), 3, write) {
            break error;
        }
    };
    ensure!(leaves.load(Ordering::Relaxed), "a request failed before the disk left: {error:#}");
    println!(
        "{} requests ended well, then one failed as the disk was leaving: {error:#}",
        done.load(Ordering::Relaxed)
    );
    Ok(())
}
