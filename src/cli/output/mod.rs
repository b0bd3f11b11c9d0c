//! How a run is shown.

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
    /// Before the first step.
    fn begin(&mut self, scenario: &Scenario, machine: &Machine);

    /// What watches the steps.
    fn observer(&mut self) -> &mut dyn Observer;

    /// After everything was given back.
    fn end(&mut self, report: &Report);

    /// Reports whether all of it was written.
    fn finish(self: Box<Self>) -> io::Result<()>;
}
