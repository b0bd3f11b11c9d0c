//! Plugs memory, has devices read and write it, and unplugs it.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};

use crate::checks::Checks;
use crate::disk::{self, BYTES, Disk, Part};

/// Files through which the kernel plugs and unplugs, and its list of blocks of memory.
pub(crate) const DLPAR: &str = "/sys/kernel/dlpar";
const BLOCKS: &str = "/sys/devices/system/memory";

/// Bytes of memory to allocate until enough of it is plugged memory: the kernel may give other
/// memory first.
const TAKEN: [usize; 3] = [24 << 20, 96 << 20, 256 << 20];

/// Bits of a page map entry: the page is present, and its number.
const THERE: u64 = 1 << 63;
const NUMBER: u64 = (1 << 55) - 1;

/// Plugs blocks and unplugs them again, then plugs one that stays.
pub(crate) fn plug(checks: &mut Checks, count: usize, disks: &[Disk], boot: u32) {
    let before = online().unwrap_or_default();
    checks.run(&format!("blocks of memory are plugged: {count}"), || change("add", count, &before, count));
    transfer(checks, disks, &before, Part::Scratch(2 * boot));
    checks.run(&format!("blocks of memory are unplugged: {count}"), || change("remove", count, &before, 0));
    checks.run("a block of memory is plugged again", || change("add", 1, &before, 1));
    transfer(checks, disks, &before, Part::Scratch(2 * boot + 1));
}

/// Makes the kernel plug or unplug `count` blocks, after which there are `more` besides those of
/// `before`.
fn change(action: &str, count: usize, before: &BTreeSet<u64>, more: usize) -> Result<()> {
    let request = format!("memory {action} count {count}");
    fs::write(DLPAR, &request).with_context(|| format!("write {request:?} to {DLPAR}"))?;
    let now = online()?;
    ensure!(
        now.is_superset(before) && now.len() == before.len() + more,
        "{} are there, {} were",
        now.len(),
        before.len()
    );
    Ok(())
}

/// Returns the numbers of all blocks that are in use.
fn online() -> Result<BTreeSet<u64>> {
    let mut blocks = BTreeSet::new();
    for entry in fs::read_dir(BLOCKS).with_context(|| format!("list {BLOCKS}"))? {
        let path = entry?.path();
        let state = fs::read_to_string(path.join("state")).unwrap_or_default();
        if state.trim() == "online" {
            blocks.insert(hexadecimal(&fs::read_to_string(path.join("phys_index"))?)?);
        }
    }
    Ok(blocks)
}

fn hexadecimal(text: &str) -> Result<u64> {
    u64::from_str_radix(text.trim(), 16).with_context(|| format!("{text:?} is not a number"))
}

/// Has each disk write from plugged memory and read into it.
fn transfer(checks: &mut Checks, disks: &[Disk], before: &BTreeSet<u64>, part: Part) {
    for &disk in disks {
        checks.run(&format!("{disk} reads plugged memory as it was written"), || check(disk, before, part));
    }
}

/// Writes a part of a disk from pages of plugged memory, and reads it into others.
fn check(which: Disk, before: &BTreeSet<u64>, part: Part) -> Result<()> {
    let disk = disk::open(which)?;
    let size = sysconf(SysconfVar::PAGE_SIZE)?.context("pages have no size")? as usize;
    let count = BYTES as usize / size;
    let (mut memory, mut plugged) = (vec![], vec![]);
    for bytes in TAKEN {
        memory = vec![0; bytes];
        // Memory that was never written has no page yet.
        memory.iter_mut().step_by(size).for_each(|byte| *byte = 1);
        plugged = self::plugged(aligned(&mut memory, size), size, before)?;
        if plugged.len() >= 2 * count {
            break;
        }
    }
    let memory = aligned(&mut memory, size);
    let taken = memory.len() / size;
    ensure!(plugged.len() >= 2 * count, "only {} of {taken} pages are in plugged memory", plugged.len());
    let at = |number: usize| part.range(BYTES).start + (number * size) as u64;
    let (mut wanted, mut found) = (crc32fast::Hasher::new(), crc32fast::Hasher::new());
    let mut data = which.data(part);
    for (number, page) in plugged[..count].iter().enumerate() {
        let page = &mut memory[page * size..][..size];
        data.fill(page);
        wanted.update(page);
        disk.write_all_at(page, at(number)).context("write")?;
    }
    disk.sync_all().context("flush")?;
    for (number, page) in plugged[count..2 * count].iter().enumerate() {
        let page = &mut memory[page * size..][..size];
        disk.read_exact_at(page, at(number)).context("read")?;
        found.update(page);
    }
    let (wanted, found) = (wanted.finalize(), found.finalize());
    ensure!(wanted == found, "checksum {found:08x}, {wanted:08x} was written");
    ensure!(self::plugged(memory, size, before)? == plugged, "pages moved meanwhile");
    Ok(())
}

/// Returns the whole pages of memory.
fn aligned(memory: &mut [u8], size: usize) -> &mut [u8] {
    let start = memory.as_ptr().align_offset(size);
    let pages = (memory.len() - start) / size;
    &mut memory[start..][..pages * size]
}

/// Returns which pages of `memory` are in plugged blocks.
fn plugged(memory: &[u8], size: usize, before: &BTreeSet<u64>) -> Result<Vec<usize>> {
    let block = hexadecimal(&fs::read_to_string(format!("{BLOCKS}/block_size_bytes"))?)?;
    let map = File::open("/proc/self/pagemap").context("open the page map")?;
    let mut plugged = Vec::new();
    for (number, page) in memory.chunks(size).enumerate() {
        let mut entry = [0; 8];
        let at = page.as_ptr().addr() / size * entry.len();
        map.read_exact_at(&mut entry, at as u64).context("read the page map")?;
        let entry = u64::from_ne_bytes(entry);
        let address = (entry & NUMBER) * size as u64;
        if entry & THERE != 0 && !before.contains(&(address / block)) {
            plugged.push(number);
        }
    }
    Ok(plugged)
}
