//! What the kernel says of this process and its memory.

use crate::NOISE;
use libtest_mimic::Failed;
use std::fs;
use std::thread::sleep;
use std::time::Duration;

/// The number of kilobytes behind a name, in bytes.
fn kilobytes(file: &str, name: &str) -> Result<u64, Failed> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name} in {file}"))?;
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    Ok(number.parse::<u64>()? << 10)
}

/// Locked bytes of this process.
pub(crate) fn locked() -> Result<u64, Failed> {
    kilobytes("/proc/self/status", "VmLck")
}

/// Open files of this process.
pub(crate) fn files() -> Result<usize, Failed> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// Free bytes of the machine, once what dead processes had is back.
pub(crate) fn free() -> Result<u64, Failed> {
    let mut free = 0;
    loop {
        fs::write("/proc/sys/vm/drop_caches", "3")?;
        sleep(Duration::from_millis(200));
        let now = kilobytes("/proc/meminfo", "MemFree")?;
        if now <= free + (256 << 10) {
            return Ok(now);
        }
        free = now;
    }
}

pub(crate) fn none_lost(before: u64, after: u64) -> Result<(), Failed> {
    match before.saturating_sub(after) {
        lost if lost > NOISE => Err(format!("{lost} bytes of memory are gone: {before} before, {after} after").into()),
        _ => Ok(()),
    }
}
