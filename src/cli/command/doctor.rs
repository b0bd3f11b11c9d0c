//! `spapr-iommu doctor`.

use super::output::Sink;
use super::terminal::{BAD, FAIR, GOOD, paint};
use super::{DoctorArguments, Exit, written};
use crate::doctor::{Finding, Level, Needs, Place, examine, verdict};
use std::io;

pub(super) fn run(arguments: &DoctorArguments) -> Exit {
    let place = Place::new(arguments.root.as_deref());
    let findings = examine(&place, Needs { memory: arguments.memory, page: arguments.page });
    let verdict = verdict(&findings);
    let report = Report { verdict, findings: &findings };
    let result = if arguments.json { json(&report) } else { text(&report) };
    let exit = if verdict == Level::Wrong { Exit::Obstacle } else { Exit::Success };
    exit.and(written(result))
}

#[derive(Debug, serde::Serialize)]
struct Report<'a> {
    /// The worst level.
    verdict: Level,
    findings: &'a [Finding],
}

fn json(report: &Report<'_>) -> io::Result<()> {
    let mut sink = Sink::stdout();
    sink.json(report);
    sink.finish()
}

fn text(report: &Report<'_>) -> io::Result<()> {
    let mut sink = Sink::stdout();
    report.findings.iter().flat_map(lines).for_each(|line| sink.words(&line, INDENT));
    sink.finish()
}

/// Columns before the text of a finding.
const INDENT: usize = 24;

/// Formats a finding: a line for it, and one for its remedy.
fn lines(finding: &Finding) -> Vec<String> {
    let style = match finding.level {
        Level::Ok => GOOD,
        Level::Warning => FAIR,
        Level::Wrong => BAD,
    };
    let level = paint(style, &format!("{:<8}", finding.level));
    let line = format!("{level} {:<14} {}", finding.topic, finding.text);
    // A check without a fault needs no remedy, although it may say how to change the setting.
    let remedy = finding.remedy.iter().filter(|_| finding.level != Level::Ok);
    std::iter::once(line).chain(remedy.map(|remedy| format!("{:<8} {:<14} fix: {remedy}", "", ""))).collect()
}
