//! `spapr-iommu replay`.

use super::output::{Watch, replay};
use super::{DEFAULT_PRESET, Exit, HostChoice, ReplayArguments, input, remedy, written};
use crate::replay::{Options, ReplayError, Report, Trace, TraceError};
use crate::scenario::Machine;
use spapr_iommu::guest::PhbError;
use std::path::Path;

pub(super) fn run(arguments: &ReplayArguments) -> Exit {
    if let Err(message) = input::check(&arguments.traces) {
        eprintln!("{message}");
        return Exit::Usage;
    }
    let mut exit = Exit::Success;
    for path in &arguments.traces {
        exit = exit.and(run_one(path, arguments));
    }
    exit
}

fn run_one(path: &Path, arguments: &ReplayArguments) -> Exit {
    let shown = input::name(path);
    let watch = Watch::new();
    let result = replay_one(path, arguments, &watch);
    watch.end();
    match result {
        Ok((machine, report)) => {
            let result = match arguments.json {
                true => replay::json(&shown, &report),
                false => replay::text(&shown, &machine, &report),
            };
            judge(&shown, &report).and(written(result))
        }
        Err(error) => {
            eprintln!("{shown}: {error}{}", remedy::of_replay(&error));
            exit(&error)
        }
    }
}

fn exit(error: &ReplayError) -> Exit {
    match error {
        ReplayError::Trace(_)
        | ReplayError::Size(_)
        | ReplayError::MemorySize { .. }
        | ReplayError::DefaultWindow { .. }
        | ReplayError::Bridge(PhbError::Windows { .. }) => Exit::Usage,
        _ => Exit::Obstacle,
    }
}

fn replay_one(path: &Path, arguments: &ReplayArguments, watch: &Watch) -> Result<(Machine, Report), ReplayError> {
    let file = input::open(path).map_err(TraceError::Open)?;
    let trace = Trace::read_limited(file, arguments.max_events, |lines| watch.message(format!("{lines} lines read")))?;
    let machine = machine(arguments.host, &trace);
    let options = Options { memory: arguments.memory, default_window: arguments.default_window };
    let report = trace.replay(&machine, &options, |done, all| watch.progress("replaying", done as u64, all as u64))?;
    Ok((machine, report))
}

fn machine(host: HostChoice, trace: &Trace) -> Machine {
    match host {
        HostChoice::Vfio => Machine::vfio(),
        HostChoice::Model(preset) => Machine::model(preset.unwrap_or(DEFAULT_PRESET), trace.bridges()),
    }
}

/// Largest number of differences printed; the JSON document has more.
const MAX_TOLD: usize = 20;

/// Reports on stderr what differed from QEMU, and returns the exit code.
fn judge(path: &str, report: &Report) -> Exit {
    let told = report.differences.iter().take(MAX_TOLD);
    told.clone().for_each(|difference| eprintln!("{path}:{}: {difference}", difference.line));
    let more = report.different.saturating_sub(told.len() as u64);
    if more != 0 {
        eprintln!("{path}: and {more} more differences");
    }
    if report.end.locked != 0 {
        eprintln!("{path}: after everything was given back {} bytes are still locked", report.end.locked);
    }
    for damage in &report.end.damage {
        eprintln!("{path}: in the kernel: {damage}");
    }
    if report.passed { Exit::Success } else { Exit::Surprise }
}
