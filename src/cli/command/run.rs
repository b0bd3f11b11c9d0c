//! `spapr-iommu run`.

use super::inspected::Inspected;
use super::interrupt::Interrupt;
use super::output::{Sink, TICK, Watch, draw};
use super::picture::Record;
use super::terminal::{BAD, GOOD, HEADING, chain, paint, say};
use super::{DEFAULT_PRESET, Exit, HostChoice, RunArguments, input, remedy, written};
use crate::Machine;
use crate::scenario::{Observer, PlanReport, Report, Scenario, StepReport};
use indicatif::{ProgressBar, ProgressStyle};
use spapr_iommu::addr::Bytes;
use std::io::{self, IsTerminal, Read};
use std::path::Path;

/// Maximum bytes of a scenario. It is kept in memory as a whole, and its steps take some forty
/// times its size.
const MAX_BYTES: u64 = 128 << 20;

pub(super) fn run(arguments: &RunArguments) -> Exit {
    if let Err(message) = input::check(&arguments.scenarios) {
        say(message);
        return Exit::Usage;
    }
    let mut scenarios = Vec::new();
    for path in &arguments.scenarios {
        match read(path).and_then(|scenario| allow(path, scenario, arguments)) {
            Ok(scenario) => scenarios.push((path, scenario)),
            Err(message) => {
                say(message);
                return Exit::Usage;
            }
        }
    }
    if arguments.pictures.any() && (scenarios.len() > 1 || scenarios.iter().any(|(_, scenario)| scenario.is_raw())) {
        say("a picture is of one scenario, whose steps are not raw: name that alone with `--svg`");
        return Exit::Usage;
    }
    let interrupt = Interrupt::watch();
    let mut exit = Exit::Success;
    for (path, scenario) in scenarios {
        if interrupt.arrived() {
            return exit.and(Exit::Interrupted);
        }
        exit = exit.and(run_one(path, &scenario, arguments, &interrupt));
    }
    exit
}

/// Reads a scenario, or says what is wrong and where.
fn read(path: &Path) -> Result<Scenario, String> {
    let shown = input::name(path);
    let watch = Watch::new();
    watch.message(format!("reading {shown}"));
    let text = input::open(path).and_then(|file| io::read_to_string(file.take(MAX_BYTES + 1)));
    let text = text.map_err(|error| format!("{shown}: cannot read the scenario: {error}"))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(format!("{shown}: longer than {}: split it into several scenarios", Bytes(MAX_BYTES)));
    }
    watch.message(format!("reading {shown}: {} bytes", text.len()));
    let parsed = Scenario::parse(&text);
    watch.end();
    parsed.map_err(|error| {
        let caret = " ".repeat(error.column.saturating_sub(1));
        format!("{shown}:{error}\n  {}\n  {caret}^", error.text.replace('\t', " "))
    })
}

/// Refuses raw steps on the running kernel unless the user allowed them.
fn allow(path: &Path, scenario: Scenario, arguments: &RunArguments) -> Result<Scenario, String> {
    if !scenario.is_raw() || arguments.raw || matches!(arguments.host, HostChoice::Model(_)) {
        return Ok(scenario);
    }
    Err(format!(
        "{}: it makes raw calls, which may crash this machine or lose its memory and devices until it boots again: try \
         it on a model (`--host model:powernv9`), and pass `--raw` where that is acceptable",
        input::name(path)
    ))
}

fn machine(scenario: &Scenario, host: HostChoice) -> Machine {
    match host {
        HostChoice::Vfio => Machine::vfio(),
        HostChoice::Model(preset) => {
            Machine::model(preset.or(scenario.model()).unwrap_or(DEFAULT_PRESET), scenario.groups())
        }
    }
}

fn run_one(path: &Path, scenario: &Scenario, arguments: &RunArguments, interrupt: &Interrupt) -> Exit {
    let machine = machine(scenario, arguments.host);
    let mut output: Box<dyn Output> =
        if arguments.json { Box::new(Json { sink: Sink::stdout() }) } else { Box::new(Text::new()) };
    output.begin(scenario, &machine);
    let shown = input::name(path);
    let mut until = UntilInterrupt { observer: output.observer(), interrupt };
    let mut record = Record::new(&mut until, arguments.pictures.any());
    let result = scenario.run(&machine, &mut Inspected::new(&mut record, arguments.inspect));
    let (memory, steps) = record.finish(scenario.title(), &machine.describe());
    let exit = match result {
        Ok(report) => {
            output.end(&report);
            judge(&shown, &report).and(arguments.pictures.write(&memory, &steps))
        }
        Err(error) => {
            say(format_args!("{shown}: {}{}", chain(&error), remedy::of_start(&error)));
            Exit::Obstacle
        }
    };
    exit.and(written(output.finish()))
}

/// Reports on stderr what was not as expected, and returns the exit code.
fn judge(path: &str, report: &Report) -> Exit {
    if let Some(step) = report.surprise() {
        let place = format!("{path}:{}: step {} ({})", step.line, step.number, step.action);
        if step.obstacle {
            say(format_args!("{place}: {}{}", step.message, remedy::of_obstacle(&step.outcome)));
            return Exit::Obstacle;
        }
        say(format_args!("{place}: {}", step.difference()));
    }
    if report.end.locked != 0 {
        say(format_args!("{path}: after everything was released {} bytes are still locked", report.end.locked));
    }
    for damage in &report.end.damage {
        say(format_args!("{path}: in the kernel: {damage}"));
    }
    if report.interrupted {
        say(format_args!("{path}: interrupted after {} steps; everything was released", report.steps.len()));
        return if report.end.is_clean() { Exit::Interrupted } else { Exit::Surprise };
    }
    if report.passed { Exit::Success } else { Exit::Surprise }
}

/// Ends a run at the step after an interrupt.
struct UntilInterrupt<'a> {
    observer: &'a mut dyn Observer,
    interrupt: &'a Interrupt,
}

impl Observer for UntilInterrupt<'_> {
    fn ends_run(&mut self) -> bool {
        self.interrupt.arrived()
    }

    fn begins(&mut self, number: usize, count: usize, action: &str) {
        self.observer.begins(number, count, action);
    }

    fn progress(&mut self, done: u64, all: u64) {
        self.observer.progress(done, all);
    }

    fn done(&mut self, step: &StepReport) {
        self.observer.done(step);
    }
}

/// Width of the longest action, and of the longest raw step.
const ACTION_WIDTH: usize = 13;
const RAW_WIDTH: usize = 22;

/// Shows a run.
trait Output {
    /// Called before the first step.
    fn begin(&mut self, scenario: &Scenario, machine: &Machine);

    /// Returns the observer of the steps.
    fn observer(&mut self) -> &mut dyn Observer;

    /// Called after everything was released.
    fn end(&mut self, report: &Report);

    /// Reports whether everything was written.
    fn finish(self: Box<Self>) -> io::Result<()>;
}

/// A line per step, then tables.
struct Text {
    sink: Sink,
    /// Hidden unless stderr is a terminal.
    bar: ProgressBar,
    /// Number of digits of the last step's number.
    width: usize,
    /// Printed once it is clear that the scenario can run here.
    heading: Option<String>,
    /// Whether the steps are raw.
    raw: bool,
}

impl Text {
    fn new() -> Self {
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
            self.print(&draw(shown));
        }
    }
}

impl Output for Text {
    fn begin(&mut self, scenario: &Scenario, machine: &Machine) {
        self.raw = scenario.is_raw();
        let about = scenario.about().map(|about| format!("\n{}", about.trim_end())).unwrap_or_default();
        self.heading = Some(format!("{} ({}){about}\n", paint(HEADING, scenario.title()), machine.describe()));
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
            self.print(&draw(&report.tables));
        }
        let end = &report.end;
        self.print(&format!("\nEverything released: {} more locked than at the start.", Bytes(end.locked)));
        end.damage.iter().for_each(|damage| self.print(&format!("In the kernel: {damage}")));
        let count = report.steps.len();
        self.print(&match (report.passed, report.surprise()) {
            (true, _) => format!("{count} steps, all as expected.\n"),
            (false, None) if report.interrupted => format!("Interrupted after {count} steps.\n"),
            (false, Some(step)) => format!("Step {} had an unexpected result.\n", step.number),
            (false, None) => "The steps were as expected, but something was left behind.\n".to_owned(),
        });
    }

    fn finish(self: Box<Self>) -> io::Result<()> {
        self.sink.finish()
    }
}

/// Formats a step in one line, under its note.
fn line(step: &StepReport, width: usize, raw: bool) -> String {
    let mark = if step.surprise { paint(BAD, "✗") } else { paint(GOOD, "✓") };
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

/// One JSON document per scenario, on one line.
struct Json {
    sink: Sink,
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
