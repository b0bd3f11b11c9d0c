//! Prints one JSON document per scenario, on one line.

use super::{Output, Sink};
use crate::scenario::{Machine, Observer, Report, Scenario};
use std::io;

pub(in crate::command) struct Json {
    sink: Sink,
}

impl Json {
    pub(in crate::command) fn new() -> Self {
        Self { sink: Sink::stdout() }
    }
}

impl Observer for Json {}

impl Output for Json {
    fn begin(&mut self, _: &Scenario, _: &Machine) {}

    fn observer(&mut self) -> &mut dyn Observer {
        self
    }

    fn end(&mut self, report: &Report) {
        self.sink.json(report);
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.sink.finish()
    }
}
