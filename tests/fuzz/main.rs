//! The fuzzer's kept inputs, run as ordinary tests. `tests/fuzz/README.md` explains how they are
//! made.

use spapr_iommu_tests::fuzz;
use std::fs::File;
use std::io::Read;
use std::panic::catch_unwind;
use std::path::PathBuf;
use tar::{Archive, Entry};

/// Returns the kept inputs of a target, by name; `SPAPR_INPUT` names a file to run instead.
fn inputs(name: &str) -> Vec<(String, Vec<u8>)> {
    if let Some(given) = std::env::var_os("SPAPR_INPUT") {
        let bytes = std::fs::read(&given).unwrap();
        return vec![(given.to_string_lossy().into_owned(), bytes)];
    }
    let archive = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name).with_extension("tar");
    let mut archive = Archive::new(File::open(archive).unwrap());
    let files = archive.entries().unwrap().map(Result::unwrap).filter(|entry| entry.header().entry_type().is_file());
    let read = |mut entry: Entry<'_, File>| {
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (entry.path().unwrap().display().to_string(), bytes)
    };
    let inputs: Vec<_> = files.map(read).collect();
    assert!(inputs.len() >= 10, "the kept inputs are there");
    inputs
}

/// Runs every kept input of a target, and shows those that fail.
fn replay(name: &str, target: fn(&[u8])) {
    let inputs = inputs(name);
    let mut failed = Vec::new();
    for (input, bytes) in &inputs {
        if catch_unwind(|| target(bytes)).is_err() {
            eprintln!("{input}:\n{}", fuzz::show(name, bytes));
            failed.push(input);
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
