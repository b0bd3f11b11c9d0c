//! Finds the shortest sequence that still differs.

use super::episode::{Difference, Episode, Failure, Pair};
use super::side::Machine;
use super::slots::Step;
use std::time::{Duration, Instant};

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
