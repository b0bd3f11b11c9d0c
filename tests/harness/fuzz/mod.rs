//! Runs an input from libFuzzer or the corpus.

pub mod raw;
mod raw_step;

use crate::guest_model;
use crate::space_model::Sequence;
use spapr_iommu_cli::Machine;
use spapr_iommu_cli::scenario::{Observer, Scenario, StepReport};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Runs a sequence of library calls: it must meet no trap, and everything must agree after each
/// call.
pub fn space(input: &[u8]) {
    if let Ok(sequence) = Sequence::decode(input) {
        sequence.run();
    }
}

/// Runs raw kernel calls: the model's own counts must balance.
pub fn raw(input: &[u8]) {
    if let Ok(calls) = raw::Calls::decode(input) {
        calls.run();
    }
}

/// Runs a hostile guest: nothing may lead outside its RAM, and all tables must agree after each of
/// its calls.
pub fn guest(input: &[u8]) {
    if let Ok(sequence) = guest_model::Sequence::decode(input) {
        sequence.run();
    }
}

/// Formats an input for people.
pub fn show(target: &str, input: &[u8]) -> String {
    match target {
        "space" => format!("{:?}", Sequence::decode(input)),
        "guest" => format!("{:?}", guest_model::Sequence::decode(input)),
        "raw" => format!("{:?}", raw::Calls::decode(input)),
        _ => String::from_utf8_lossy(input).into_owned(),
    }
}

/// Largest number of steps run, and of bytes that a step may fill, compare or move.
const MAX_STEPS: usize = 60;
const MAX_BYTES: u64 = 8 << 20;

/// A step would move more than time allows.
struct TooLarge;

/// Ends the run at such a step by unwinding: even then everything must be released.
struct Bounded;

impl Observer for Bounded {
    fn progress(&mut self, _done: u64, all: u64) {
        if all > MAX_BYTES {
            resume_unwind(Box::new(TooLarge));
        }
    }
}

/// Reads and runs a text on two machines.
pub fn scenario(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let scenario = match Scenario::parse(&text) {
        Ok(scenario) => scenario,
        Err(error) => {
            assert!(error.line >= 1 && error.line <= text.split('\n').count() && error.column >= 1, "{error}");
            assert!(!error.message.is_empty() && error.to_string().contains(&error.message));
            return;
        }
    };
    // The machine gets a group for each number named. Bare steps do harm on purpose, and nothing
    // limits them.
    if scenario.len() > MAX_STEPS || scenario.groups() > 64 || scenario.is_raw() {
        return;
    }
    let named = scenario.model().map(|preset| preset.to_string());
    for preset in named.iter().map(String::as_str).chain(["powernv9-4k", "pseries"]) {
        let machine = Machine::model(preset.parse().unwrap(), scenario.groups());
        let run = || scenario.run(&machine, &mut Bounded);
        match catch_unwind(AssertUnwindSafe(run)) {
            Ok(Ok(report)) => {
                assert!(report.end.is_clean(), "{preset}: {:?}", report.end);
                let silent = |step: &&StepReport| step.outcome != "ok" && step.message.is_empty();
                assert!(report.steps.iter().find(silent).is_none(), "{preset}: {:?}", report.steps);
            }
            Ok(Err(refused)) => assert!(!refused.to_string().is_empty()),
            Err(panic) if panic.is::<TooLarge>() => {
                let Machine::Model { model, .. } = &machine else { return };
                assert_eq!((model.violations(), model.leaks()), (vec![], vec![]), "after a panic on {preset}");
            }
            Err(panic) => resume_unwind(panic),
        }
    }
}
