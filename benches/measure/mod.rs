//! Two ways of doing the same, in one run: rounds alternate, medians are compared.

use std::time::Instant;

/// Rounds of each.
const ROUNDS: usize = 25;

fn time_ns(work: &mut impl FnMut(), operations: usize) -> f64 {
    let began = Instant::now();
    work();
    began.elapsed().as_nanos() as f64 / operations as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Nanoseconds per operation of `ours` and `theirs`, each of `operations` operations.
pub(crate) fn median_ns(operations: usize, mut ours: impl FnMut(), mut theirs: impl FnMut()) -> (f64, f64) {
    ours();
    theirs();
    let rounds = (0..ROUNDS).map(|_| (time_ns(&mut ours, operations), time_ns(&mut theirs, operations)));
    let (our_times, their_times) = rounds.unzip();
    (median(our_times), median(their_times))
}

/// Prints rows as they come.
pub(crate) struct Table;

impl Table {
    pub(crate) fn new(what: &str, ours: &str, theirs: &str) -> Self {
        println!("{what:34} {ours:>12} {theirs:>12}  ratio");
        Self
    }

    pub(crate) fn row(&mut self, what: &str, ours: f64, theirs: f64) {
        println!("{what:34} {ours:9.0} ns {theirs:9.0} ns  {:.2}", ours / theirs);
    }
}
