//! What the kernel reports of this process and its memory.

use libtest_mimic::Failed;
use ppc64_init::memory::settled_free_kib;
use std::fs;

/// Returns the kilobytes on the line of that name, in bytes.
fn kilobytes(file: &str, name: &str) -> Result<u64, Failed> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or_else(|| format!("no {name} in {file}"))?;
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    Ok(number.parse::<u64>()? << 10)
}

/// Returns this process's locked bytes.
pub(crate) fn locked() -> Result<u64, Failed> {
    kilobytes("/proc/self/status", "VmLck")
}

/// Returns this process's open files.
pub(crate) fn files() -> Result<usize, Failed> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// Returns the machine's free bytes, after memory of dead processes has been returned.
pub(crate) fn free() -> Result<u64, Failed> {
    Ok(settled_free_kib()? << 10)
}

/// Fails if more than `noise` bytes are missing.
pub(crate) fn none_lost(before: u64, after: u64, noise: u64) -> Result<(), Failed> {
    match before.saturating_sub(after) {
        lost if lost > noise => Err(format!("{lost} bytes of memory are gone: {before} before, {after} after").into()),
        _ => Ok(()),
    }
}
