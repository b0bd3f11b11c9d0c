//! How a run is shown.

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
    /// Before the first step.
    fn begin(&mut self, scenario: &Scenario, machine: &Machine);

    /// What watches the steps.
    fn observer(&mut self) -> &mut dyn Observer;

    /// After everything was given back.
    fn end(&mut self, report: &Report);
}

/// Prints to stdout; a reader that has gone is no error.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}
