//! Measures how long reads take, and how busy the machine is during them.

use std::error::Error;
use std::fs;
use std::time::Instant;

/// The result of a measurement.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    /// Reads per second.
    pub(crate) iops: f64,
    /// Fraction of time in which processors were not idle, interrupts included.
    pub(crate) busy: f64,
}

/// Measures `reads` reads.
pub(crate) fn measure(
    reads: usize,
    work: impl FnOnce() -> Result<(), Box<dyn Error>>,
) -> Result<Measured, Box<dyn Error>> {
    let (idle, all) = ticks()?;
    let began = Instant::now();
    work()?;
    let iops = reads as f64 / began.elapsed().as_secs_f64();
    let (idle_after, all_after) = ticks()?;
    let idle = (idle_after - idle) as f64 / (all_after - all).max(1) as f64;
    Ok(Measured { iops, busy: 1.0 - idle })
}

/// Reads the ticks of all processors: idle ones, and all.
fn ticks() -> Result<(u64, u64), Box<dyn Error>> {
    let text = fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().ok_or("/proc/stat is empty")?;
    // user nice system idle iowait irq softirq steal; guests are in user.
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|word| word.parse().ok()).collect();
    let idle = ticks.get(3..5).ok_or("/proc/stat has no idle time")?.iter().sum();
    Ok((idle, ticks.iter().sum()))
}
