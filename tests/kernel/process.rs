//! What the kernel says of this process and its memory.

use libtest_mimic::Failed;
use ppc64_init::memory::settled_free_kib;
use std::fs;

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
    Ok(settled_free_kib()? << 10)
}

/// Fails when more than `noise` bytes are gone.
pub(crate) fn none_lost(before: u64, after: u64, noise: u64) -> Result<(), Failed> {
    match before.saturating_sub(after) {
        lost if lost > noise => Err(format!("{lost} bytes of memory are gone: {before} before, {after} after").into()),
        _ => Ok(()),
    }
}
