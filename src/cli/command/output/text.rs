//! Shows a run as text: a line per step, then tables.

use super::{Output, Sink, tables};
use crate::scenario::{Machine, Observer, PlanReport, Report, Scenario, StepReport};
use indicatif::{ProgressBar, ProgressStyle};
use spapr_iommu::addr::Bytes;
use std::io::{self, IsTerminal};
use std::time::Duration;

/// Interval at which the bar moves.
const TICK: Duration = Duration::from_millis(120);

/// Width of the longest action, and of the longest raw step.
const ACTION_WIDTH: usize = 13;
const RAW_WIDTH: usize = 22;

pub(in crate::command) struct Text {
    sink: Sink,
    /// Hidden unless stderr is a terminal.
    bar: ProgressBar,
    /// Number of digits of the last step's number.
    width: usize,
    /// Printed when it is clear that the scenario can run here.
    heading: Option<String>,
    /// Whether the steps are raw.
    raw: bool,
}

impl Text {
    pub(in crate::command) fn new() -> Self {
        let sink = Sink::stdout();
        if !io::stderr().is_terminal() {
            return Self { sink, bar: ProgressBar::hidden(), width: 1, heading: None, raw: false };
        }
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(TICK);
        Self { sink, bar, width: 1, heading: None, raw: false }
    }

    fn print(&mut self, text: &str) {
        let sink = &mut self.sink;
        self.bar.suspend(|| sink.line(text));
    }
}

impl Observer for Text {
    fn begins(&mut self, number: usize, count: usize, action: &str) {
        self.width = count.to_string().len();
        if let Some(heading) = self.heading.take() {
            self.print(&heading);
        }
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            self.bar.set_style(style);
        }
        self.bar.set_message(format!("step {number} of {count}: {action}"));
    }

    fn progress(&mut self, done: u64, all: u64) {
        if self.bar.length() != Some(all)
            && let Ok(style) =
                ProgressStyle::with_template("{spinner} {msg} [{wide_bar}] {binary_bytes}/{binary_total_bytes}")
        {
            self.bar.set_length(all);
            self.bar.set_style(style);
        }
        self.bar.set_position(done);
    }

    fn done(&mut self, step: &StepReport) {
        self.bar.unset_length();
        self.print(&line(step, self.width, self.raw));
        let indent = " ".repeat(self.width + 4);
        if let Some(plan) = &step.plan {
            reasons(plan).iter().for_each(|reason| self.print(&format!("{indent}{reason}")));
        }
        if let Some(shown) = &step.tables {
            self.print(&tables::draw(shown));
        }
    }
}

impl Output for Text {
    fn begin(&mut self, scenario: &Scenario, machine: &Machine) {
        self.raw = scenario.is_raw();
        let about = scenario.about().map(|about| format!("\n{}", about.trim_end())).unwrap_or_default();
        self.heading = Some(format!("{} ({}){about}\n", scenario.title(), machine.describe()));
    }

    fn observer(&mut self) -> &mut dyn Observer {
        self
    }

    fn end(&mut self, report: &Report) {
        self.bar.finish_and_clear();
        if let Some(heading) = self.heading.take() {
            self.print(&heading);
        }
        let last = report.steps.last();
        if !report.raw && last.is_none_or(|step| step.tables.is_none()) {
            self.print(&tables::draw(&report.tables));
        }
        let end = &report.end;
        self.print(&format!("\nAll given back: {} more locked than at the start.", Bytes(end.locked)));
        end.damage.iter().for_each(|damage| self.print(&format!("In the kernel: {damage}")));
        let count = report.steps.len();
        self.print(&match (report.passed, report.surprise()) {
            (true, _) => format!("{count} steps, all as expected.\n"),
            (false, Some(step)) => format!("Step {} came out otherwise than expected.\n", step.number),
            (false, None) => "The steps were as expected, but something was left behind.\n".to_owned(),
        });
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.sink.finish()
    }
}

/// Formats a step in one line, under its note.
fn line(step: &StepReport, width: usize, raw: bool) -> String {
    let mark = if step.surprise { '✗' } else { '✓' };
    let action_width = if raw { RAW_WIDTH } else { ACTION_WIDTH };
    let mut text = String::new();
    for note in step.note.iter().flat_map(|note| note.lines()) {
        text += &format!("{:1$}# {note}\n", "", width + 4);
    }
    text += &format!("{mark} {:>width$}  {:<action_width$} {}", step.number, step.action, step.arguments);
    if let Some(name) = &step.name {
        text += &format!(" [{name}]");
    }
    let outcome = match (step.surprise, step.outcome.as_str()) {
        (true, _) => step.difference(),
        (false, answer) if raw && step.message.is_empty() => answer.to_owned(),
        (false, answer) if raw => format!("{answer}, {}", step.message),
        (false, "ok") => step.message.clone(),
        (false, code) => format!("refused as expected, {code}: {}", step.message),
    };
    if !outcome.is_empty() {
        text += if step.arguments.is_empty() { "" } else { ": " };
        text += &outcome;
    }
    text.trim_end().to_owned()
}

fn reasons(plan: &PlanReport) -> Vec<String> {
    let start = plan.start.as_ref().map_or("where the firmware puts it".to_owned(), |start| format!("at {start}"));
    let levels = if plan.levels == 1 { "1 level".to_owned() } else { format!("{} levels", plan.levels) };
    let window = format!("window: {} {start}, {} pages, {levels}", Bytes(plan.size), Bytes(plan.page));
    let cost = format!(
        "cost: {} locked, {} kernel calls; removing visits {} entries with {} hypercalls",
        Bytes(plan.locked),
        plan.ioctls,
        plan.teardown_entries,
        plan.teardown_hypercalls
    );
    let reasons = plan.reasons.iter().map(|reason| format!("because: {reason}"));
    [window, cost].into_iter().chain(reasons).collect()
}
