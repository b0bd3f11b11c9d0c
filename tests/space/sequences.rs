//! Many calls: any sequence of them, valid or hostile; random programs of several threads; a
//! hundred thousand live maps in random places.

use crate::fixture::{BIG, Fixture, RW, at, iova};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use spapr_iommu::addr::{Iova, UserAddr};
use spapr_iommu::window::WindowRequest;
use spapr_iommu_tests::by_address::ByAddress;
use spapr_iommu_tests::space_model::Sequence;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

fn sequence() -> impl Strategy<Value = Sequence> {
    prop::collection::vec(any::<u8>(), 0..600).prop_map(|bytes| Sequence::decode(&bytes).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 600 } else { 3000 }))]

    #[test]
    fn no_sequence_of_calls_meets_a_trap_and_everything_agrees(sequence in sequence()) {
        sequence.run();
    }
}

/// A program makes some dozens of calls; one that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(60);

fn program() -> impl Strategy<Value = Vec<Sequence>> {
    let sequence = || prop::collection::vec(any::<u8>(), 20..250).prop_map(|bytes| Sequence::decode(&bytes).unwrap());
    prop::collection::vec(sequence(), 2..=4)
}

/// Runs a program under a watchdog. Returns the bytes mapped at its end.
fn run(program: &[Sequence], seed: u64) -> u64 {
    let (done, watch) = channel::<()>();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || {
            let _done = done;
            Sequence::run_together(program)
        });
        if watch.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
            // Threads that wait for each other cannot be ended in any other way.
            eprintln!("a deadlock, seed {seed}:\n{program:?}");
            std::process::abort();
        }
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `SPAPR_SEED` repeats the programs of a run; threads still interleave differently.
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

const PAGE: u64 = 0x1000;
const PAGES: u64 = 1 << 20;
const LIVE: usize = 100_000;

/// The expected mappings after every step, one entry per page.
type Twin = BTreeMap<u64, u64>;

#[test]
fn a_hundred_thousand_live_maps_in_random_places_equal_a_naive_twin() {
    let mut rng = fastrand::Rng::with_seed(64);
    let fixture = Fixture::new("powernv9-4k");
    let ram = fixture.allocate(256 << 20);
    let lease = fixture.registry.lease(ram).unwrap();
    fixture.space.create_window(&WindowRequest::bytes(PAGES * PAGE)).unwrap();
    let mut twin = Twin::new();
    let mut places = Vec::with_capacity(LIVE);
    while twin.len() < LIVE {
        let (page, user) = (rng.u64(..PAGES), rng.u64(..ram.len() / PAGE));
        let there = iova(BIG + page * PAGE, PAGE);
        let mapped = fixture.space.map(there, at(ram, user * PAGE), RW);
        assert_eq!(mapped.is_ok(), !twin.contains_key(&page));
        if mapped.is_ok() {
            twin.insert(page, user);
            places.push(page);
        }
        step_agrees(&fixture, &twin, page, &mut rng, ram.start());
    }
    whole_agrees(&fixture, &twin, ram.start());
    while !places.is_empty() {
        let page = places.swap_remove(rng.usize(..places.len()));
        assert_eq!(fixture.space.unmap(iova(BIG + page * PAGE, PAGE)).unwrap(), PAGE);
        twin.remove(&page);
        step_agrees(&fixture, &twin, page, &mut rng, ram.start());
        if places.len() == LIVE / 2 {
            whole_agrees(&fixture, &twin, ram.start());
        }
    }
    assert_eq!(fixture.space.mapped(), (0, 0));
    lease.release().unwrap();
    fixture.ends_clean();
}

/// Checks the sums, the page that was named with its neighbours, and a random one: what a step can
/// have changed, at a cost that every step can bear.
fn step_agrees(fixture: &Fixture, twin: &Twin, page: u64, rng: &mut fastrand::Rng, ram: UserAddr) {
    assert_eq!(fixture.space.mapped().1, twin.len() as u64 * PAGE);
    for page in [page.saturating_sub(1), page, page + 1, rng.u64(..PAGES)] {
        let found = fixture.space.translate(Iova(BIG + page * PAGE)).map(|found| found.user.0);
        assert_eq!(found, twin.get(&page).map(|user| ram.0 + user * PAGE));
    }
}

/// Checks every page, in the space and in the hardware's tables.
fn whole_agrees(fixture: &Fixture, twin: &Twin, ram: UserAddr) {
    let pages: Vec<_> = fixture
        .space
        .mappings()
        .iter()
        .flat_map(|m| {
            (0..m.iova.len() / PAGE).map(|i| ((m.iova.start().0 - BIG) / PAGE + i, (m.user.0 - ram.0) / PAGE + i))
        })
        .collect();
    assert_eq!(pages, twin.iter().map(|(&page, &user)| (page, user)).collect::<Vec<_>>());
    fixture.agrees();
}
