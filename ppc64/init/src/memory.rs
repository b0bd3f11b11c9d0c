//! How much memory is free, and huge pages.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A field of /proc/meminfo.
pub(crate) fn meminfo_kib(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == field)
        .and_then(|(_, value)| value.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("/proc/meminfo has no {field}"))
}

/// Free memory once nothing more comes back by itself.
///
/// Freed pages arrive late: from RCU callbacks, and through per-CPU lists that do not count as free
/// until compaction drains them.
pub(crate) fn settled_free_kib() -> Result<u64> {
    let mut best = 0;
    let mut unchanged = 0;
    for _ in 0..30 {
        nix::unistd::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").context("drop caches")?;
        fs::write("/proc/sys/vm/compact_memory", "1").context("drain the per-CPU page lists")?;
        sleep(Duration::from_millis(100));
        let free = meminfo_kib("MemFree")?;
        if free > best {
            best = free;
            unchanged = 0;
        } else {
            unchanged += 1;
        }
        if unchanged == 3 {
            break;
        }
    }
    Ok(best)
}

/// Sets aside huge pages of the default size.
pub(crate) fn reserve_huge_pages(pages: u64) -> Result<()> {
    let path = "/proc/sys/vm/nr_hugepages";
    fs::write(path, pages.to_string())
        .context("set huge pages aside; does this machine have any?")?;
    let got = fs::read_to_string(path).context("read the number of huge pages")?;
    ensure!(
        got.trim().parse() == Ok(pages),
        "{pages} huge pages asked for, {} given; this machine has no huge pages or not enough memory",
        got.trim()
    );
    Ok(())
}
