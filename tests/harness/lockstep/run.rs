//! Runs episodes until enough steps were compared or something differs. Then finds the shortest
//! sequence that still differs, and writes it as a scenario: the steps that lead to it, with the
//! model's answers.

use super::episode::{Difference, Episode, Failure, Pair, Tally};
use super::generate::Plan;
use super::guard;
use super::side::{Machine, Outcome, Side, Step, Where, fresh_model};
use fastrand::Rng;
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::{Call, Errno};
use spapr_iommu::model::{Model, Preset};
use spapr_iommu::uapi::{spapr, vfio};
use spapr_iommu_cli::scenario::raw::{self, Entry};
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
                let shortest = shrink(pair, steps);
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

const TIMEOUT: Duration = Duration::from_secs(300);

/// Steps that were done, and the result of the last one.
pub type Differing = (Vec<Step>, Difference);

/// Removes steps, large pieces first, as long as the two sides still differ. The difference may
/// change on the way.
pub fn shrink<M: Machine>(pair: &Pair<'_, M>, mut steps: Vec<Step>) -> Option<Differing> {
    let began = Instant::now();
    let mut found = differs(pair, &steps)?;
    let mut size = steps.len().div_ceil(2);
    loop {
        let mut at = 0;
        let before = steps.len();
        while at < steps.len() && began.elapsed() < TIMEOUT {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            match differs(pair, &fewer) {
                Some(differing) => (steps, found) = (fewer, differing),
                None => at += size,
            }
        }
        if began.elapsed() >= TIMEOUT || size == 1 && steps.len() == before {
            return Some(found);
        }
        size = size.div_ceil(2);
    }
}

fn differs<M: Machine>(pair: &Pair<'_, M>, steps: &[Step]) -> Option<Differing> {
    let mut episode = Episode::new(pair).ok()?;
    match episode.replay(steps) {
        Err(Failure::Difference(difference)) => Some((episode.done, *difference)),
        _ => None,
    }
}

const HOW: &str = "\
# The shortest sequence that differs: save what follows, up to the end mark, as difference.toml, and replay it by
#     spapr-iommu run difference.toml
#     ppc64/run --machine MACHINE --kernel KERNEL -- spapr-iommu run --host vfio --raw difference.toml
";
pub const END: &str = "# end of difference.toml\n";

/// Returns the text of a file that shows a difference after these steps, of which the last one
/// differed.
pub fn document(preset: Preset, title: &str, steps: &[Step], difference: &Difference) -> Result<String, String> {
    let mut model = Recorder { model: fresh_model(preset)?, locked: 0, entries: Vec::new() };
    for (at, step) in steps.iter().enumerate() {
        let real = (at + 1 == steps.len()).then_some(&difference.real);
        model.step(step, real);
    }
    model.look(difference);
    for step in guard::wind_down(&model.model).unwrap_or_default() {
        model.step(&step, None);
    }
    let text = raw::document(title, Some(&difference.to_string()), Some(preset), &model.entries);
    Ok(format!("{HOW}\n{text}\n{END}"))
}

struct Recorder {
    model: Side<Model>,
    locked: i128,
    entries: Vec<Entry>,
}

impl Recorder {
    /// Adds a step; `real` is the other side's result, if it differs.
    fn step(&mut self, step: &Step, real: Option<&Outcome>) {
        let outcome = self.model.apply(step);
        let other = real.and_then(|real| real.call.as_ref());
        let mut entry = Entry::new(*step, outcome.result).giving(outcome.call.as_ref(), other);
        if outcome.locked != self.locked || real.is_some_and(|real| real.locked != outcome.locked) {
            entry.locked = u64::try_from(outcome.locked).ok();
        }
        self.locked = outcome.locked;
        self.entries.push(entry);
    }

    /// Adds what was seen after the last step, if the other side saw something else.
    fn look(&mut self, difference: &Difference) {
        let Difference { model, real, .. } = difference;
        for (slot, result, after) in model.seen.iter().filter(|seen| !real.seen.contains(seen)) {
            let asked = match after {
                Call::TceGetInfo(_) => Call::TceGetInfo(spapr::TceInfo { argsz: 32, ..Default::default() }),
                _ => Call::GroupGetStatus(vfio::GroupStatus { argsz: 8, ..Default::default() }),
            };
            let other = real.seen.iter().find(|(there, ..)| there == slot).map(|(_, _, call)| call);
            let step = Step::Call { file: *slot, call: asked, user: Where::Fixed(0) };
            self.entries.push(Entry::new(step, *result).giving(Some(after), other));
        }
        let differ = model.contents.iter().zip(&real.contents).map(|(here, there)| here != there);
        for ((slot, range), _) in self.model.small_memory().zip(differ).filter(|(_, differ)| *differ) {
            let parts = raw::contents(&self.model.host, slot, range);
            let check = |(part, byte)| Entry::new(Step::Check(part, byte), Ok::<_, Errno>(0));
            self.entries.extend(parts.into_iter().map(check));
        }
    }
}
