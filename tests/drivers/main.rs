//! Real drivers on a real kernel, and on models. The devices are what vfio-pci has: `edu` and NVMe
//! controllers.
//!
//! `ppc64/run --machine powernv9 --kernel 6.12-64k --device edu --device nvme --device nvme --
//! drivers`, `--rounds N` after `drivers` for longer rounds; `cargo test --test drivers` on
//! models.

mod edu;
#[path = "../../examples/edu/driver.rs"]
mod edu_driver;
mod fixture;
mod wrong;

use clap::Parser;
use fixture::{Fixture, PRESETS};
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;
use std::sync::Arc;

/// Returns a test for one machine: the running kernel's, or a model.
type Test = fn(&Fixture) -> Result<(), Failed>;

/// On machines where DMA windows can be created.
const TESTS: &[(&str, Test)] = &[
    ("edu_copies_through_both_windows_with_every_interrupt", edu::copies_through_both_windows_with_every_interrupt),
    ("edu_streams_through_memory_mapped_for_each_transfer", edu::streams),
    ("edu_reaches_slices_and_files", edu::reaches_slices_and_files),
    ("edu_rounds_leave_nothing", edu::rounds_leave_nothing),
    ("a_mask_too_small_is_named", wrong::a_mask_too_small_is_named),
    ("a_budget_too_small_is_named", wrong::a_budget_too_small_is_named),
    ("a_buffer_dropped_while_the_device_runs_is_out_of_reach", wrong::a_buffer_dropped_while_the_device_runs),
    ("a_panic_while_the_device_runs_leaves_nothing", wrong::a_panic_while_the_device_runs),
    ("a_device_that_is_gone_is_named", wrong::a_device_that_is_gone_is_named),
];

/// On machines whose firmware has none.
const WITHOUT_WINDOWS: &[(&str, Test)] = &[("firmware_without_windows_is_named", wrong::firmware_without_windows)];

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    arguments: Arguments,
    /// How often devices are opened, used and closed before leaks are counted
    #[arg(long, default_value_t = 10)]
    rounds: u32,
}

fn main() -> ExitCode {
    let Options { mut arguments, rounds } = Options::parse();
    // A device has one driver at a time.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    let grounds = match Fixture::running(rounds) {
        Some(fixture) => vec![("kernel".to_owned(), fixture)],
        None => PRESETS.map(|preset| (format!("model:{preset}"), Fixture::model(preset, rounds))).into(),
    };
    for (kind, fixture) in grounds {
        let fixture = Arc::new(fixture);
        let tests = if fixture.has_windows() { TESTS } else { WITHOUT_WINDOWS };
        for (name, test) in tests {
            let fixture = Arc::clone(&fixture);
            trials.push(Trial::test(*name, move || test(&fixture)).with_kind(kind.clone()));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}
