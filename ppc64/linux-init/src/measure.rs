//! Measures the first disk: reads of 4 KiB at random, one and 32 at a time, and sequential
//! transfers.
//!
//! A result is the best of several, because the machine may have other work for a while.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use ppc64_linux_init::{MEASURED, Measure};

use crate::disk::{self, BLOCK, Disk};

/// The part of the disk that is read.
const BYTES: u64 = 32 << 20;
/// Number of random reads of each measurement.
const READS: u64 = 512;
/// Number of measurements, of which the best counts.
const TIMES: u32 = 10;
/// Bytes of a sequential request.
const LONG: usize = 512 << 10;

/// Measures the disk and prints a line for each result. The disk is written first, so that each
/// read finds data.
pub(crate) fn run(disk: Disk) -> Result<()> {
    let disk = disk::open(disk)?;
    let written = best(|| in_a_row(|at, buffer| disk.write_all_at(buffer, at).context("write")))?;
    disk.sync_all().context("flush")?;
    let read = best(|| in_a_row(|at, buffer| disk.read_exact_at(buffer, at).context("read")))?;
    let results = [
        (Measure::Depth1, best(|| at_random(&disk, 1))?),
        (Measure::Depth32, best(|| at_random(&disk, 32))?),
        (Measure::Reads, read),
        (Measure::Writes, written),
    ];
    for (what, result) in results {
        println!("{MEASURED}{}: {result:.0}", what.name());
    }
    Ok(())
}

fn best(measure: impl Fn() -> Result<f64>) -> Result<f64> {
    (0..TIMES).try_fold(0.0, |best: f64, _| Ok(best.max(measure()?)))
}

/// Returns random reads per second: each of `depth` threads has one in flight.
fn at_random(disk: &File, depth: u64) -> Result<f64> {
    let read = |seed| {
        let mut random = fastrand::Rng::with_seed(seed);
        with_buffer(BLOCK, |buffer| {
            for _ in 0..READS / depth {
                disk.read_exact_at(buffer, random.u64(..BYTES / BLOCK as u64) * BLOCK as u64).context("read")?;
            }
            Ok(())
        })
    };
    let began = Instant::now();
    thread::scope(|scope| {
        let threads: Vec<_> = (0..depth).map(|seed| scope.spawn(move || read(seed))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
    })?;
    Ok(READS as f64 / began.elapsed().as_secs_f64())
}

/// Returns MiB per second of `request`s, one after the other.
fn in_a_row(request: impl Fn(u64, &mut [u8]) -> Result<()>) -> Result<f64> {
    let began = Instant::now();
    with_buffer(LONG, |buffer| (0..BYTES).step_by(LONG).try_for_each(|at| request(at, buffer)))?;
    Ok((BYTES >> 20) as f64 / began.elapsed().as_secs_f64())
}

/// Lends memory aligned for direct I/O.
fn with_buffer(len: usize, work: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<()> {
    let mut memory = vec![0x5a; len + BLOCK];
    let start = memory.as_ptr().align_offset(BLOCK);
    work(&mut memory[start..start + len])
}
