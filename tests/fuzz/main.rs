//! The kept inputs of the fuzzer, run as ordinary tests. `tests/fuzz/README.md` tells how they come to be.

use spapr_iommu_tests::fuzz;
use std::panic::catch_unwind;
use std::path::PathBuf;

/// Runs every kept input of a target, and shows those that fail. `SPAPR_INPUT` names a file to run instead.
fn replay(name: &str, target: fn(&[u8])) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut inputs: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(inputs.len() >= 10, "the kept inputs are there");
    if let Some(given) = std::env::var_os("SPAPR_INPUT") {
        inputs = vec![given.into()];
    }
    inputs.sort();
    let mut failed = Vec::new();
    for path in &inputs {
        let bytes = std::fs::read(path).unwrap();
        if catch_unwind(|| target(&bytes)).is_err() {
            eprintln!("{}:\n{}", path.display(), fuzz::show(name, &bytes));
            failed.push(path);
        }
    }
    assert!(failed.is_empty(), "of {} inputs of {name} these fail: {failed:?}", inputs.len());
}

#[test]
fn no_kept_sequence_of_calls_meets_a_trap() {
    replay("space", fuzz::space);
}

#[test]
fn no_kept_raw_call_upsets_the_model() {
    replay("raw", fuzz::raw);
}

#[test]
fn no_kept_text_upsets_the_scenarios() {
    replay("scenario", fuzz::scenario);
}

#[test]
fn no_kept_guest_gets_out_of_its_memory() {
    replay("guest", fuzz::guest);
}
