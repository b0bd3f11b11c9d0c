//! `spapr-iommu run`.

use super::output::{Output, Watch, json::Json, text::Text};
use super::{DEFAULT_PRESET, Exit, HostChoice, RunArguments, input, remedy, written};
use crate::scenario::{Machine, Report, Scenario};
use spapr_iommu::addr::Bytes;
use std::io::{self, Read};
use std::path::Path;

/// The most bytes of a scenario. It is kept in memory whole, and its steps take some forty times
/// its size.
const MAX_BYTES: u64 = 128 << 20;

pub(super) fn run(arguments: &RunArguments) -> Exit {
    if let Err(message) = input::check(&arguments.scenarios) {
        eprintln!("{message}");
        return Exit::Usage;
    }
    let mut scenarios = Vec::new();
    for path in &arguments.scenarios {
        match read(path).and_then(|scenario| allow(path, scenario, arguments)) {
            Ok(scenario) => scenarios.push((path, scenario)),
            Err(message) => {
                eprintln!("{message}");
                return Exit::Usage;
            }
        }
    }
    let mut exit = Exit::Success;
    for (path, scenario) in scenarios {
        exit = exit.and(run_one(path, &scenario, arguments));
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
         it on a model (`--host model:powernv9`), and give `--raw` where that may happen",
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

fn run_one(path: &Path, scenario: &Scenario, arguments: &RunArguments) -> Exit {
    let machine = machine(scenario, arguments.host);
    let mut output: Box<dyn Output> = if arguments.json { Box::new(Json::new()) } else { Box::new(Text::new()) };
    output.begin(scenario, &machine);
    let shown = input::name(path);
    let exit = match scenario.run(&machine, output.observer()) {
        Ok(report) => {
            output.end(&report);
            judge(&shown, &report)
        }
        Err(error) => {
            eprintln!("{shown}: {error}{}", remedy::of_start(&error));
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
            eprintln!("{place}: {}{}", step.message, remedy::of_obstacle(&step.outcome));
            return Exit::Obstacle;
        }
        eprintln!("{place}: {}", step.difference());
    }
    if report.end.locked != 0 {
        eprintln!("{path}: after everything was given back {} bytes are still locked", report.end.locked);
    }
    for damage in &report.end.damage {
        eprintln!("{path}: in the kernel: {damage}");
    }
    if report.passed { Exit::Success } else { Exit::Surprise }
}
