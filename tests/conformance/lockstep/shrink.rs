//! The shortest sequence that still differs.

use super::episode::{Difference, Episode, Failure, Pair};
use super::side::Machine;
use super::step::Step;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(300);

/// Takes steps out, large pieces first, as long as the two sides still differ. What differs may change on the way.
pub(crate) fn shrink<M: Machine>(pair: &Pair<'_, M>, mut steps: Vec<Step>) -> Option<(Vec<Step>, Difference)> {
    let began = Instant::now();
    let mut found = differs(pair, &steps)?;
    let mut size = steps.len().div_ceil(2);
    loop {
        let mut at = 0;
        let before = steps.len();
        while at < steps.len() && began.elapsed() < PATIENCE {
            let mut fewer = steps.clone();
            fewer.drain(at..(at + size).min(steps.len()));
            match differs(pair, &fewer) {
                Some(difference) => (steps, found) = (fewer, difference),
                None => at += size,
            }
        }
        if began.elapsed() >= PATIENCE || size == 1 && steps.len() == before {
            return Some((steps, found));
        }
        size = size.div_ceil(2);
    }
}

fn differs<M: Machine>(pair: &Pair<'_, M>, steps: &[Step]) -> Option<Difference> {
    match Episode::new(pair).ok()?.replay(steps) {
        Err(Failure::Difference(difference)) => Some(*difference),
        _ => None,
    }
}
