//! Memory: huge pages, and the limit of locked memory.

use super::{Finding, Level, Needs, Place};
use spapr_iommu::addr::{Amount, Bytes};
use spapr_iommu::host::Memlock;

const TOPIC: &str = "locked memory";

/// Locked by a small guest, or by a driver with large queues.
const USUAL: u64 = 1 << 30;

pub(super) fn check(place: &Place, needs: Needs) -> Vec<Finding> {
    vec![huge_pages(place), locked(place, needs)]
}

fn huge_pages(place: &Place) -> Finding {
    let pages = place.huge_pages();
    let shown: Vec<_> =
        pages.iter().map(|(bytes, count, free)| format!("{}: {count}, {free} free", Bytes(*bytes))).collect();
    Finding::ok("huge pages", if shown.is_empty() { "the kernel offers none".into() } else { shown.join("; ") })
}

/// Reads the limit of the process below the root. A tree has a limit of its own.
fn limit(place: &Place) -> Option<Option<u64>> {
    let limits = place.read("proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(None),
        bytes => bytes.parse().ok().map(Some),
    }
}

fn locked(place: &Place, needs: Needs) -> Finding {
    let memlock = match place.host.memlock() {
        Ok(memlock) => Memlock { limit: limit(place).unwrap_or(memlock.limit), ..memlock },
        Err(errno) => {
            let text = format!("cannot be read: {errno}");
            return Finding::warning(TOPIC, "unknown", text, "mount /proc: `mount -t proc proc /proc`");
        }
    };
    let wanted = needs.memory.unwrap_or(USUAL);
    let missing = memlock.missing(wanted);
    if missing == 0 {
        return Finding::ok(TOPIC, memlock.to_string());
    }
    let kilobytes = memlock.locked.saturating_add(wanted).div_ceil(1024);
    let remedy = format!("`ulimit -l {kilobytes}` as root, or LimitMEMLOCK={kilobytes}K of the service");
    let text = format!("{memlock}: {} too little to lock {}", Amount(missing), Amount(wanted));
    let level = if needs.memory.is_some() { Level::Wrong } else { Level::Warning };
    Finding { level, ..Finding::wrong(TOPIC, "memlock-too-small", text, remedy) }
}
