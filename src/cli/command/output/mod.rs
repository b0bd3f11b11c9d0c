//! Shows runs.

pub(super) mod bind;
pub(super) mod json;
pub(super) mod replay;
mod tables;
pub(super) mod text;
mod watch;

pub(super) use watch::Watch;

use crate::scenario::{Machine, Observer, Report, Scenario};

/// Shows a run.
pub(super) trait Output {
    /// Called before the first step.
    fn begin(&mut self, scenario: &Scenario, machine: &Machine);

    /// Returns the observer of the steps.
    fn observer(&mut self) -> &mut dyn Observer;

    /// Called after everything was released.
    fn end(&mut self, report: &Report);
}

/// Prints to stdout. A reader that has gone is not an error.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
