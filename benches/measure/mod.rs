//! Compares two ways of doing the same, in one run: rounds alternate, medians are compared.

#![allow(dead_code, reason = "each benchmark uses a part")]

mod null;

#[allow(unused_imports, reason = "each benchmark uses a part")]
pub(crate) use null::Null;
use std::time::Instant;

/// Number of rounds for each.
const ROUNDS: usize = 25;

fn time_ns(work: &mut impl FnMut(), after: &mut impl FnMut(), operations: usize) -> f64 {
    let began = Instant::now();
    work();
    let took = began.elapsed().as_nanos() as f64 / operations as f64;
    after();
    took
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Returns nanoseconds per operation of `ours` and `theirs`, each of `operations` operations.
pub(crate) fn median_ns(operations: usize, ours: impl FnMut(), theirs: impl FnMut()) -> (f64, f64) {
    median_ns_then(operations, (ours, || ()), (theirs, || ()))
}

/// Does the same, with work after each round that is not timed.
pub(crate) fn median_ns_then(
    operations: usize,
    (mut ours, mut our_after): (impl FnMut(), impl FnMut()),
    (mut theirs, mut their_after): (impl FnMut(), impl FnMut()),
) -> (f64, f64) {
    time_ns(&mut ours, &mut our_after, operations);
    time_ns(&mut theirs, &mut their_after, operations);
    let rounds = (0..ROUNDS).map(|_| {
        let our_time = time_ns(&mut ours, &mut our_after, operations);
        (our_time, time_ns(&mut theirs, &mut their_after, operations))
    });
    let (our_times, their_times) = rounds.unzip();
    (median(our_times), median(their_times))
}

/// Prints rows as they come.
pub(crate) struct Table;

impl Table {
    pub(crate) fn head(what: &str, ours: &str, theirs: &str) {
        println!("{what:34} {ours:>12} {theirs:>12}  ratio");
    }

    pub(crate) fn row(what: &str, ours: f64, theirs: f64) {
        println!("{what:34} {ours:9.0} ns {theirs:9.0} ns  {:.2}", ours / theirs);
    }

    /// Prints a row for operations that take a few nanoseconds.
    pub(crate) fn precise(what: &str, ours: f64, theirs: f64) {
        println!("{what:34} {ours:9.2} ns {theirs:9.2} ns  {:.2}", ours / theirs);
    }
}
