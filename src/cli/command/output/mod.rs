//! Shows runs.

pub(super) mod bind;
pub(super) mod json;
pub(super) mod replay;
mod sink;
mod tables;
pub(super) mod text;
mod watch;

pub(super) use sink::Sink;
pub(super) use watch::Watch;

use crate::scenario::{Machine, Observer, Report, Scenario};
use std::io;

/// Shows a run.
pub(super) trait Output {
    /// Called before the first step.
    fn begin(&mut self, scenario: &Scenario, machine: &Machine);

    /// Returns the observer of the steps.
    fn observer(&mut self) -> &mut dyn Observer;

    /// Called after everything was released.
    fn end(&mut self, report: &Report);

    /// Reports whether all of it was written.
    fn finish(self: Box<Self>) -> io::Result<()>;
}
