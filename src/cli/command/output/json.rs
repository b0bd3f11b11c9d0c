//! Prints one JSON document per scenario, on one line.

use super::{Output, print};
use crate::scenario::{Machine, Observer, Report, Scenario};

pub(in crate::command) struct Json;

impl Observer for Json {}

impl Output for Json {
    fn begin(&mut self, _: &Scenario, _: &Machine) {}

    fn observer(&mut self) -> &mut dyn Observer {
        self
    }

    fn end(&mut self, report: &Report) {
        match serde_json::to_string(report) {
            Ok(text) => print(&text),
            Err(error) => tracing::error!(%error, "the report cannot be written"),
        }
    }
}
