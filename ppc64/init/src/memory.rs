//! How much memory is free, and huge pages.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};

/// Bytes of a page.
pub fn page_size() -> Result<u64> {
    let size = sysconf(SysconfVar::PAGE_SIZE)?.context("page size is unknown")?;
    Ok(size.try_into()?)
}

/// A field of /proc/meminfo.
pub fn meminfo_kib(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == field)
        .and_then(|(_, value)| value.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("/proc/meminfo has no {field}"))
}

/// Free memory once nothing more comes back by itself.
///
/// Freed pages arrive late, for instance from RCU callbacks, and the per-CPU lists of free pages, some of
/// which stay there for good, are not part of MemFree.
pub fn settled_free_kib() -> Result<u64> {
    let page_kib = page_size()? / 1024;
    let mut best = 0;
    let mut unchanged = 0;
    for _ in 0..30 {
        nix::unistd::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").context("drop caches")?;
        shrink_slabs();
        sleep(Duration::from_millis(100));
        let zones = fs::read_to_string("/proc/zoneinfo").context("read /proc/zoneinfo")?;
        let free = meminfo_kib("MemFree")? + per_cpu_pages(&zones) * page_kib;
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

/// Has slab caches give back what each CPU keeps at hand. Not every cache allows it.
fn shrink_slabs() {
    for cache in fs::read_dir("/sys/kernel/slab").into_iter().flatten().flatten() {
        let _ = fs::write(cache.path().join("shrink"), "1");
    }
}

/// Pages on the per-CPU lists of all zones.
fn per_cpu_pages(zones: &str) -> u64 {
    zones
        .lines()
        .filter_map(|line| line.trim().strip_prefix("count:"))
        .filter_map(|count| count.trim().parse::<u64>().ok())
        .sum()
}

/// Sets aside huge pages of the default size.
pub fn reserve_huge_pages(pages: u64) -> Result<()> {
    let path = "/proc/sys/vm/nr_hugepages";
    fs::write(path, pages.to_string()).context("set huge pages aside; does this machine have any?")?;
    let got = fs::read_to_string(path).context("read the number of huge pages")?;
    ensure!(
        got.trim().parse() == Ok(pages),
        "{pages} huge pages asked for, {} given; this machine has no huge pages or not enough memory",
        got.trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::per_cpu_pages;

    #[test]
    fn per_cpu_lists_are_added_up() {
        let zones = "Node 0, zone   Normal\n  pages free     31000\n  pagesets\n    cpu: 0\n              \
            count:    12\n              high:     40\n    cpu: 1\n              count:    3\n";
        assert_eq!(per_cpu_pages(zones), 15);
    }
}
