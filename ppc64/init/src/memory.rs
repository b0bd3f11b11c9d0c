//! How much memory is free, and huge pages.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};

/// Returns the bytes of a page.
pub fn page_size() -> Result<u64> {
    let size = sysconf(SysconfVar::PAGE_SIZE)?.context("page size is unknown")?;
    Ok(size.try_into()?)
}

/// Returns a field of /proc/meminfo.
pub fn meminfo_kib(field: &str) -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("read /proc/meminfo")?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == field)
        .and_then(|(_, value)| value.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("/proc/meminfo has no {field}"))
}

/// Returns free memory once it stays the same: freed pages arrive late, for example from RCU
/// callbacks.
pub fn settled_free_kib() -> Result<u64> {
    let page_kib = page_size()? / 1024;
    let (mut last, mut best, mut unchanged) = (0, 0, 0);
    for _ in 0..40 {
        nix::unistd::sync();
        fs::write("/proc/sys/vm/drop_caches", "3").context("drop caches")?;
        shrink_slabs();
        sleep(Duration::from_millis(100));
        let free = free_pages()? * page_kib;
        unchanged = if free == last { unchanged + 1 } else { 0 };
        (last, best) = (free, best.max(free));
        if unchanged == 3 {
            return Ok(free);
        }
    }
    Ok(best)
}

/// Returns the free pages of all zones, including those on the per-CPU lists, some of which stay
/// there for good.
///
/// A CPU adds the pages it took and returned to a zone's number in steps: of ten pages in a machine
/// with 2 GiB, so that two readings may be 1280 KiB apart with 64 KiB pages. It is told to add the
/// rest first. Both kinds of pages are read from one file: between two, pages could move from the
/// lists to the zone, and would count twice. Readings are still too low while the lists shrink;
/// these differ from each other.
fn free_pages() -> Result<u64> {
    fs::write("/proc/sys/vm/stat_refresh", "1").context("bring the numbers of free pages up to date")?;
    Ok(pages(&fs::read_to_string("/proc/zoneinfo").context("read /proc/zoneinfo")?))
}

/// Makes slab caches return what each CPU keeps at hand. Not every cache allows it.
fn shrink_slabs() {
    for cache in fs::read_dir("/sys/kernel/slab").into_iter().flatten().flatten() {
        let _ = fs::write(cache.path().join("shrink"), "1");
    }
}

/// Returns the free pages of all zones, and those on their per-CPU lists.
fn pages(zones: &str) -> u64 {
    let number = |line: &str| {
        let line = line.trim();
        line.strip_prefix("pages free").or_else(|| line.strip_prefix("count:"))?.trim().parse::<u64>().ok()
    };
    zones.lines().filter_map(number).sum()
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
    use super::pages;

    #[test]
    fn free_pages_and_per_cpu_lists_of_all_zones_are_added_up() {
        let zones = "Node 0, zone   Normal\n  per-node stats\n      nr_inactive_anon 7\n  pages free     31000\n        \
            boost    0\n        min      90\n      nr_free_pages 31000\n  pagesets\n    cpu: 0\n              \
            count:    12\n              high:     40\n    cpu: 1\n              count:    3\n\
            Node 0, zone  Movable\n  pages free     200\n  pagesets\n    cpu: 0\n              count: 1\n";
        assert_eq!(pages(zones), 31000 + 12 + 3 + 200 + 1);
    }
}
