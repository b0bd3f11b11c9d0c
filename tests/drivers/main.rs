//! Real drivers on a real kernel, and on models. The devices are what vfio-pci has: `edu` and NVMe
//! controllers.
//!
//! `ppc64/run --machine powernv9 --kernel 6.12-64k --device edu --device nvme --device nvme --
//! drivers`, `--rounds N` behind `drivers` for longer rounds; `cargo test --test drivers` on
//! models, of which there is none with NVMe.

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

/// A test of one machine: the running kernel's, or a model.
type Test = fn(&Fixture) -> Result<(), Failed>;

/// Where DMA windows can be made.
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

/// Where the firmware has none.
const WITHOUT_WINDOWS: &[(&str, Test)] = &[("firmware_without_windows_is_named", wrong::firmware_without_windows)];

#[derive(Parser)]
struct Options {
    #[command(flatten)]
    arguments: Arguments,
    /// How often devices are opened, used and closed before what is left is counted
    #[arg(long, default_value_t = 10)]
    rounds: u32,
}

fn main() -> ExitCode {
    let Options { mut arguments, rounds } = Options::parse();
    // A device has one driver at a time.
    arguments.test_threads = Some(1);
    let mut trials = vec![Trial::test("the_guide_shows_the_drivers_code", guide_shows_the_drivers_code)];
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

const GUIDE: &str = include_str!("../../docs/drivers.md");
const DRIVER: &str = include_str!("../../examples/edu/driver.rs");

/// Each block of `docs/drivers.md` marked as the driver's code is in the driver, except for the
/// indentation of its first line.
fn guide_shows_the_drivers_code() -> Result<(), Failed> {
    let mut blocks = 0;
    for block in GUIDE.split("```rust,ignore\n").skip(1) {
        let code = block.split("```").next().unwrap_or_default();
        let bare = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
        if !bare(DRIVER).contains(bare(code).trim()) {
            return Err(format!("examples/edu/driver.rs has no such lines:\n{code}").into());
        }
        blocks += 1;
    }
    if blocks >= 4 { Ok(()) } else { Err(format!("{blocks} blocks of the guide are from the driver").into()) }
}
