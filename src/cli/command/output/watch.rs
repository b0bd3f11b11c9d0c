//! Shows progress of long work, on stderr if that is a terminal.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// Interval at which the bar moves.
const TICK: Duration = Duration::from_millis(120);

/// A spinner, and a bar when the amount of work is known.
pub(in crate::command) struct Watch(ProgressBar);

impl Watch {
    pub(in crate::command) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    pub(in crate::command) fn message(&self, message: String) {
        self.0.set_message(message);
    }

    pub(in crate::command) fn progress(&self, message: &'static str, done: u64, all: u64) {
        if self.0.length() != Some(all)
            && let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{wide_bar}] {pos}/{len}")
        {
            self.0.set_length(all);
            self.0.set_style(style);
            self.0.set_message(message);
        }
        self.0.set_position(done);
    }

    pub(in crate::command) fn end(&self) {
        self.0.finish_and_clear();
    }
}
