//! `spapr-iommu run`.

use super::output::{Output, json::Json, text::Text};
use super::{DEFAULT_PRESET, Exit, HostChoice, RunArguments};
use crate::scenario::{Machine, Report, Scenario};
use std::path::{Path, PathBuf};

pub(super) fn run(arguments: &RunArguments) -> Exit {
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
        let outcome = run_one(path, &scenario, arguments);
        if exit == Exit::Success {
            exit = outcome;
        }
    }
    exit
}

/// Reads a scenario, or reports what is wrong and where.
fn read(path: &PathBuf) -> Result<Scenario, String> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{shown}: cannot read the scenario: {error}"))?;
    Scenario::parse(&text).map_err(|error| {
        let caret = " ".repeat(error.column.saturating_sub(1));
        format!("{shown}:{error}\n  {}\n  {caret}^", error.text.replace('\t', " "))
    })
}

/// Refuses bare steps on the running kernel unless the user allowed them.
fn allow(path: &Path, scenario: Scenario, arguments: &RunArguments) -> Result<Scenario, String> {
    if !scenario.is_bare() || arguments.bare || matches!(arguments.host, HostChoice::Model(_)) {
        return Ok(scenario);
    }
    Err(format!(
        "{}: it makes bare calls, which may crash this machine or lose its memory and devices until it boots again: try \
         it on a model (`--host model:powernv9`), and give `--bare` where that may happen",
        path.display()
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
    let mut output: Box<dyn Output> = if arguments.json { Box::new(Json) } else { Box::new(Text::new()) };
    output.begin(scenario, &machine);
    let shown = path.display();
    match scenario.run(&machine, output.observer()) {
        Ok(report) => {
            output.end(&report);
            judge(&shown.to_string(), &report)
        }
        Err(error) => {
            eprintln!("{shown}: {error}");
            Exit::Obstacle
        }
    }
}

/// Reports on stderr what was not as expected, and returns the exit code.
fn judge(path: &str, report: &Report) -> Exit {
    if let Some(step) = report.surprise() {
        let place = format!("{path}:{}: step {} ({})", step.line, step.number, step.action);
        if step.obstacle {
            eprintln!("{place}: {}", step.message);
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
