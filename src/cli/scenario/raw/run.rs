//! Runs raw steps, to the end or to the first unexpected answer.

use super::super::context::StartError;
use super::super::file::Scenario;
use super::super::places::Places;
use super::super::report::{End, Report, StepReport, Tables};
use super::super::run::Observer;
use super::entry::{Answer, Entry, Line, arguments};
use super::fields::numbers;
use super::process::{Done, Process};
use super::step::{MemoryName, Step};
use crate::machine::Machine;
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::{Host, Platform};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A run in progress: a process on a machine.
struct RawRun<'a> {
    machine: &'a Machine,
    host: Arc<dyn Host>,
    process: Process,
    /// Bytes locked at the beginning.
    locked: u64,
    /// Number of violations reported so far.
    reported: usize,
}

/// Runs a scenario of raw steps and closes what is still open at the end.
pub(in super::super) fn run(
    scenario: &Scenario,
    machine: &Machine,
    observer: &mut dyn Observer,
) -> Result<Report, StartError> {
    let host = machine.host();
    let groups = machine.groups(scenario.groups())?;
    let note = machine.note(&groups);
    let (platform, page, locked) = (host.platform(), host.page_shift(), machine.locked());
    let mut run = RawRun { machine, host, process: Process::new(groups), locked, reported: 0 };
    let mut steps: Vec<StepReport> = Vec::new();
    let mut interrupted = false;
    for (at, line) in scenario.raw.iter().enumerate() {
        interrupted = observer.ends_run();
        if interrupted {
            break;
        }
        observer.begins(at + 1, scenario.raw.len(), line.entry.step.key());
        let report = run.step(at + 1, line, (platform, page));
        observer.done(&report);
        let stop = report.surprise;
        steps.push(report);
        if stop {
            break;
        }
    }
    let end = run.end();
    let passed = !interrupted && !steps.iter().any(|step| step.surprise);
    let (title, platform) = (scenario.title.clone(), platform.map(|platform| platform.to_string()));
    let tables = Tables::default();
    let page = page.bytes();
    Ok(Report { title, platform, page, steps, tables, end, passed, interrupted, host: note, raw: true })
}

impl RawRun<'_> {
    fn step(&mut self, number: usize, line: &Line, (platform, page): (Option<Platform>, PageShift)) -> StepReport {
        let entry = &line.entry;
        let done = self.process.run(self.host.as_ref(), self.machine.memory(), &entry.step);
        let expected = shown(entry.expect.on(platform, page), entry.gives.clone(), entry.locked);
        let outcome = self.outcome(entry, &done);
        let surprise = outcome != expected;
        let mut message = written(entry, &done);
        let violations = self.machine.violations_after(self.reported);
        message.extend(violations.iter().map(|violation| self.named(violation)));
        self.reported += violations.len();
        StepReport {
            number,
            line: line.number,
            name: entry.name.clone(),
            note: entry.note.clone(),
            action: entry.step.key(),
            arguments: arguments(entry.step),
            expected,
            outcome,
            message: message.join(", "),
            surprise,
            obstacle: false,
            plan: None,
            tables: None,
        }
    }

    fn locked(&self) -> u64 {
        self.machine.locked().saturating_sub(self.locked)
    }

    /// Returns the part of the result that the entry has expectations for.
    fn outcome(&self, entry: &Entry, (result, after): &Done) -> String {
        let all = after.map(numbers).unwrap_or_default();
        let expected = all.into_iter().filter(|(name, _)| entry.gives.contains_key(*name));
        let gives = expected.map(|(name, number)| (name.to_owned(), number)).collect();
        shown(Answer(*result), gives, entry.locked.map(|_| self.locked()))
    }

    /// Releases everything, and checks whether anything is left.
    fn end(mut self) -> End {
        self.process.close_all(self.host.as_ref());
        let damage = self.machine.damage().iter().map(|damage| self.named(damage)).collect();
        End { locked: self.locked(), damage }
    }

    fn named(&self, message: &str) -> String {
        let memory = self.process.memory.iter().enumerate();
        Places::known(memory.map(|(slot, range)| (MemoryName(slot).to_string(), *range))).rewrite(message)
    }
}

fn shown(answer: Answer, gives: BTreeMap<String, u64>, locked: Option<u64>) -> String {
    let gives = gives.into_iter().map(|(name, number)| format!("{name}={number:#x}"));
    let locked = locked.map(|bytes| format!("locked={bytes:#x}"));
    [answer.to_string()].into_iter().chain(gives).chain(locked).collect::<Vec<_>>().join(" ")
}

/// Returns the fields of the call's structure that the kernel wrote but the entry does not mention.
fn written(entry: &Entry, (_, after): &Done) -> Vec<String> {
    let (Step::Call { call, .. }, Some(after)) = (&entry.step, after) else { return Vec::new() };
    let changed = numbers(*after).into_iter().zip(numbers(*call)).filter(|(after, before)| after != before);
    let unmentioned = changed.filter(|((name, _), _)| !entry.gives.contains_key(*name));
    unmentioned.map(|((name, number), _)| format!("{name}={number:#x}")).collect()
}
