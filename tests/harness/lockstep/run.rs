//! Runs episodes until enough steps were compared or something differs.

use super::document::document;
use super::episode::{Episode, Failure, Pair, Tally};
use super::generate::Plan;
use super::shrink;
use super::side::Machine;
use fastrand::Rng;
use spapr_iommu::addr::PageShift;
use std::time::{Duration, Instant};

/// One episode in this many may create default windows.
const PATIENT_EVERY: u64 = 8;

/// Amount of work.
#[derive(Clone, Debug)]
pub struct Amount {
    pub seed: u64,
    /// Number of the first episode.
    pub from: u64,
    /// Number of steps to compare.
    pub ops: u64,
    /// Number of steps in an episode.
    pub length: usize,
    /// One episode in this many opens devices and does DMA; 0 for none.
    pub dma_every: u64,
    pub huge: Vec<PageShift>,
    /// Whether to print each step before it is done.
    pub trace: bool,
    /// Whether to search for the shortest sequence that differs.
    pub shrink: bool,
}

#[derive(Debug, Default)]
pub struct Summary {
    pub tally: Tally,
    pub episodes: u64,
    /// A description of each difference.
    pub differences: Vec<String>,
    pub took: Duration,
}

/// Runs the episodes; reports `progress` after each one.
pub fn run<M: Machine>(
    pair: &Pair<'_, M>,
    amount: &Amount,
    mut progress: impl FnMut(&Summary),
) -> Result<Summary, String> {
    let began = Instant::now();
    let mut summary = Summary::default();
    while summary.tally.steps < amount.ops {
        let number = amount.from + summary.episodes;
        let devices = amount.dma_every != 0 && number % amount.dma_every == amount.dma_every - 1;
        let patient = number.is_multiple_of(PATIENT_EVERY);
        let plan = Plan { huge: amount.huge.clone(), devices, patient };
        // Each episode depends on the seed and its number alone.
        let mut rng = Rng::with_seed(amount.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(number));
        let mut episode = Episode::new(pair)?;
        episode.trace = amount.trace;
        let result = episode.walk(&mut rng, &plan, amount.length, &mut summary.tally);
        summary.episodes += 1;
        summary.took = began.elapsed();
        progress(&summary);
        let Err(failure) = result else { continue };
        let steps = core::mem::take(&mut episode.done);
        drop(episode);
        let place = format!("seed {} episode {number} step {}", amount.seed, steps.len());
        summary.differences.push(match failure {
            Failure::Harness(what) => format!("{place}: {what}"),
            Failure::Difference(difference) if !amount.shrink => format!("{place}: {difference}"),
            Failure::Difference(difference) => {
                eprintln!("{place}: {difference}\nshrinking");
                let shortest = shrink::shrink(pair, steps);
                let shown = match shortest {
                    None => "  does not happen again from a clean state".into(),
                    Some((steps, difference)) => document(pair.model, &place, &steps, &difference)?,
                };
                format!("{place}: {difference}\n{shown}")
            }
        });
        break;
    }
    Ok(summary)
}
