//! Any sequence of a guest's calls: of one vCPU, where tables, hardware and a naive twin agree
//! after each; of several at once, while lists change under them, memory and devices come and go,
//! and emulated devices translate.

use arbitrary::{Result, Unstructured};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use spapr_iommu::guest::{GuestMemory, GuestTranslation};
use spapr_iommu_tests::guest_model::{Outcome, Sequence, Setup, Step, Testbed};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// A run takes a second; one that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(100);
/// Number of calls of a vCPU.
const CALLS: usize = 400;

/// Generates any step of a kind.
fn step(rng: &mut fastrand::Rng, kind: impl Fn(&mut Unstructured<'_>) -> Result<Step>) -> Step {
    let mut bytes = [0; 256];
    rng.fill(&mut bytes);
    kind(&mut Unstructured::new(&bytes)).unwrap()
}

/// The architecture's codes, and no others.
fn is_architected(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Hcall { code, .. } => matches!(code, None | Some(0 | -1 | -4)),
        // Another vCPU may overwrite results before they are checked.
        Outcome::Rtas { code, .. } => matches!(code, None | Some(0 | -4)),
        _ => true,
    }
}

fn is_ram(found: GuestTranslation) -> bool {
    spapr_iommu_tests::guest_model::SLOTS
        .iter()
        .any(|(start, len)| *start <= found.guest.0 && found.guest.0 < start + len)
}

/// Numbers of successful calls and of MAPs.
fn run(setup: &Setup, vcpus: usize, seed: u64) -> (usize, usize) {
    let testbed = Testbed::new(setup, false);
    Testbed::first(setup).iter().for_each(|step| drop(testbed.act(step)));
    let (stop, done) = (AtomicBool::new(false), AtomicUsize::new(0));
    // What runs until the vCPUs have finished.
    let meanwhile = |seed: u64, act: &dyn Fn(&mut fastrand::Rng)| {
        let mut rng = fastrand::Rng::with_seed(seed);
        while !stop.load(Ordering::Relaxed) {
            act(&mut rng);
        }
    };
    std::thread::scope(|scope| {
        let working: Vec<_> = (0..vcpus)
            .map(|vcpu| {
                let (testbed, done) = (&testbed, &done);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(seed + vcpu as u64);
                    for _ in 0..CALLS {
                        let step = step(&mut rng, Step::of_guest);
                        let outcome = testbed.act(&step);
                        assert!(is_architected(&outcome), "{step:x?}: {outcome:x?}");
                        let came = matches!(outcome, Outcome::Hcall { code: Some(0), .. });
                        done.fetch_add(usize::from(came), Ordering::Relaxed);
                    }
                })
            })
            .collect();
        scope.spawn(|| meanwhile(seed + 10, &|rng| drop(testbed.act(&step(rng, Step::list)))));
        scope.spawn(|| meanwhile(seed + 11, &|rng| drop(testbed.act(&step(rng, Step::memory)))));
        scope.spawn(|| meanwhile(seed + 12, &|rng| drop(testbed.act(&step(rng, Step::device)))));
        scope.spawn(|| {
            meanwhile(seed + 13, &|rng| {
                let found = testbed.act(&step(rng, Step::translate));
                assert!(!matches!(found, Outcome::Translated(Some(found)) if !is_ram(found)), "{found:x?}");
            });
        });
        let ends: Vec<_> = working.into_iter().map(|vcpu| vcpu.join()).collect();
        // Even after a failure, or the others would never stop.
        stop.store(true, Ordering::Relaxed);
        ends.into_iter().for_each(|end| end.unwrap());
    });
    testbed.fixture.agrees();
    let maps = testbed.stays_in_ram();
    // The guest's memory is still where it should be.
    assert_eq!(testbed.fixture.iommu.ram().slots().len(), testbed.fixture.slots.slots().len());
    testbed.end();
    (done.into_inner(), maps)
}

/// Does the same under a watchdog.
fn watched(setup: &Setup, vcpus: usize, seed: u64) -> (usize, usize) {
    let (sender, watch) = channel::<()>();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || {
            let _sender = sender;
            run(setup, vcpus, seed)
        });
        if watch.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout) {
            // Threads that wait for each other cannot be ended in any other way.
            eprintln!("a deadlock with {vcpus} vCPUs, seed {seed}: {setup:x?}");
            std::process::abort();
        }
        running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// `SPAPR_SEED` repeats what a run does; threads still interleave differently.
#[test]
fn vcpus_lists_memory_and_devices_that_change_at_once_never_lead_out_of_ram() {
    let given = std::env::var("SPAPR_SEED").ok().map(|seed| seed.parse().expect("SPAPR_SEED is a number"));
    let seed: u64 = given.unwrap_or_else(|| fastrand::u64(..1 << 40));
    println!("seed {seed}");
    let (mut done, mut maps) = (0, 0);
    for (machine, vcpus) in [("powernv8-64k", 2), ("powernv9-4k-7.2", 3), ("pseries-64k", 4), ("pseries-1window", 2)] {
        let (came, mapped) = watched(&Setup::roomy(machine), vcpus, seed);
        (done, maps) = (done + came, maps + mapped);
    }
    println!("{done} calls succeeded, {maps} MAPs");
    assert!(done > 100 && maps > 20, "{done} calls succeeded, {maps} MAPs");
}

fn sequence() -> impl Strategy<Value = Sequence> {
    prop::collection::vec(any::<u8>(), 0..600).prop_map(|bytes| Sequence::decode(&bytes).unwrap())
}

#[test]
fn no_guest_maps_what_is_not_its_ram_and_all_tables_agree() {
    let cases = if cfg!(debug_assertions) { 600 } else { 5000 };
    let mapping = AtomicU32::new(0);
    let result = TestRunner::new(Config { source_file: Some(file!()), ..Config::with_cases(cases) }).run(
        &sequence(),
        |sequence| {
            mapping.fetch_add(u32::from(sequence.run() > 0), Ordering::Relaxed);
            Ok(())
        },
    );
    if let Err(error) = result {
        panic!("{error}");
    }
    let mapping = mapping.into_inner();
    assert!(mapping > cases / 8, "only {mapping} of {cases} sequences mapped anything for a device");
}
