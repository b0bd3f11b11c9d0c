//! Any text as a scenario: it must be read without a panic, refused with a position and a reason,
//! or run without harm.

use spapr_iommu_cli::Machine;
use spapr_iommu_cli::scenario::{Observer, Scenario, StepReport};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

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
