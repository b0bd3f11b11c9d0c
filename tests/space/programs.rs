//! Random programs of several threads on spaces and a registry that they share.

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use spapr_iommu_tests::space_model::Sequence;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// A program that takes longer waits for ever: it has some dozens of calls.
const LONGEST: Duration = Duration::from_secs(60);

fn program() -> impl Strategy<Value = Vec<Sequence>> {
    let sequence = || prop::collection::vec(any::<u8>(), 20..250).prop_map(|bytes| Sequence::decode(&bytes).unwrap());
    prop::collection::vec(sequence(), 2..=4)
}

/// Runs a program under a watchdog. Bytes mapped at its end.
fn run(program: &[Sequence], seed: u64) -> u64 {
    let (done, watch) = channel::<()>();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || {
            let _done = done;
            Sequence::run_together(program)
        });
        if watch.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
            // Threads that wait for each other cannot be ended any other way.
            eprintln!("a deadlock, seed {seed}:\n{program:?}");
            std::process::abort();
        }
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `SPAPR_SEED` repeats the programs of a run; threads take turns anew all the same.
#[test]
fn any_programs_of_several_threads_meet_no_trap_and_agree_in_the_end() {
    let given = std::env::var("SPAPR_SEED").ok().map(|seed| seed.parse().expect("SPAPR_SEED is a number"));
    let seed: u64 = given.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let cases = if cfg!(debug_assertions) { 1500 } else { 10_000 };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 300, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let mapping = AtomicU32::new(0);
    let result = runner.run(&program(), |program| {
        mapping.fetch_add(u32::from(run(&program, seed) > 0), Ordering::Relaxed);
        Ok(())
    });
    if let Err(error) = result {
        panic!("seed {seed}: {error}");
    }
    let mapping = mapping.into_inner();
    assert!(mapping > cases / 20, "only {mapping} programs had something mapped in the end");
}
