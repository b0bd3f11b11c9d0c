//! Runs a scenario step by step, to the end or to the first surprise.

use super::action::Action;
use super::context::{Context, StartError};
use super::expect::Verdict;
use super::file::{Scenario, Step};
use super::machine::Machine;
use super::observer::Observer;
use super::raw;
use super::report::{Report, StepReport};
use super::tables::tables;
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::Platform;

impl Scenario {
    /// Runs it up to the first surprise and releases everything. Bare steps on the running kernel
    /// may crash it: check [`Scenario::is_raw`] first.
    pub fn run(&self, machine: &Machine, observer: &mut dyn Observer) -> Result<Report, StartError> {
        if self.is_raw() {
            return raw::run(self, machine, observer);
        }
        let mut context = Context::new(machine, self)?;
        let host = machine.host();
        let (platform, page) = (host.platform(), host.page_shift());
        let mut steps: Vec<StepReport> = Vec::new();
        for (at, step) in self.steps.iter().enumerate() {
            observer.begins(at + 1, self.steps.len(), step.action.key());
            let report = run_step(&mut context, at + 1, step, (platform, page), observer);
            observer.stands(&mut context.spaces.iter().map(|(name, space)| (name.as_str(), &space.space)));
            observer.done(&report);
            let stop = report.surprise;
            steps.push(report);
            if stop {
                break;
            }
        }
        let tables = tables(&context);
        let host = machine.note(&context.groups);
        let end = context.end();
        let passed = end.is_clean() && !steps.iter().any(|step| step.surprise);
        let platform = platform.map(|platform| platform.to_string());
        let title = self.title.clone();
        Ok(Report { title, platform, page: page.bytes(), steps, tables, end, passed, host, raw: false })
    }
}

fn run_step(
    context: &mut Context<'_>,
    number: usize,
    step: &Step,
    (platform, page): (Option<Platform>, PageShift),
    observer: &mut dyn Observer,
) -> StepReport {
    let expected = step.expect.on(platform, page);
    let result = context.act(&step.action, &mut |done, all| observer.progress(done, all));
    let (outcome, message, plan, obstacle) = match result {
        Ok(done) => (Verdict::Ok, done.message, done.plan, false),
        Err(error) => (Verdict::Refused(error.code), context.message(&error), None, error.obstacle),
    };
    let shows = matches!(step.action, Action::Show(_));
    StepReport {
        number,
        line: step.line,
        name: step.name.clone(),
        note: step.note.clone(),
        action: step.action.key(),
        arguments: step.action.to_string(),
        expected: expected.to_string(),
        outcome: outcome.to_string(),
        message,
        surprise: outcome != expected,
        obstacle: obstacle && outcome != expected,
        plan,
        tables: shows.then(|| tables(context)),
    }
}
