//! Runs a scenario step by step, to the end or to the first surprise.

use super::action::Action;
use super::context::{Context, StartError};
use super::expect::Verdict;
use super::file::{Scenario, Step};
use super::raw;
use super::report::{GroupRow, LeaseRow, Locked, MapRow, RegionRow, Report, StepReport, Tables, WindowRow};
use crate::machine::Machine;
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::Platform;
use spapr_iommu::registry::RegionStatus;
use spapr_iommu::space::AddressSpace;
use spapr_iommu::window::{DEFAULT_PAGE, DefaultWindow};

impl Scenario {
    /// Runs it up to the first surprise and releases everything. Raw steps on the running kernel
    /// may crash it: check [`Scenario::is_raw`] first.
    pub fn run(&self, machine: &Machine, observer: &mut dyn Observer) -> Result<Report, StartError> {
        if self.is_raw() {
            return raw::run(self, machine, observer);
        }
        let mut context = Context::new(machine, self)?;
        let host = machine.host();
        let (platform, page) = (host.platform(), host.page_shift());
        let mut steps: Vec<StepReport> = Vec::new();
        let mut interrupted = false;
        for (at, step) in self.steps.iter().enumerate() {
            interrupted = observer.ends_run();
            if interrupted {
                break;
            }
            observer.begins(at + 1, self.steps.len(), step.action.key());
            observer.before_step(&RunState(&context));
            let report = run_step(&mut context, at + 1, step, (platform, page), observer);
            observer.after_step(&RunState(&context));
            observer.done(&report);
            let stop = report.surprise;
            steps.push(report);
            if stop {
                break;
            }
        }
        observer.before_release(&RunState(&context));
        let tables = tables(&context);
        let host = machine.note(&context.groups);
        let end = context.end();
        let passed = end.is_clean() && !interrupted && !steps.iter().any(|step| step.surprise);
        let platform = platform.map(|platform| platform.to_string());
        let title = self.title.clone();
        let page = page.bytes();
        Ok(Report { title, platform, page, steps, tables, end, passed, interrupted, host, raw: false })
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

fn tables(context: &Context<'_>) -> Tables {
    let mut regions = context.registry.regions();
    regions.sort_by_key(|region| context.places.rank(region.range.start()));
    let mut tables = Tables {
        locked: locked(context, &regions),
        registered: regions
            .iter()
            .map(|region| RegionRow {
                memory: context.places.show(region.range.start()),
                size: region.range.len(),
                max_iommu_page: region.max_iommu_page.bytes(),
                leases: region.leases,
                mapped: region.mapped,
                containers: region.containers,
            })
            .collect(),
        leases: context
            .leases
            .iter()
            .map(|held| LeaseRow {
                lease: held.name.clone(),
                memory: context.places.show(held.lease.range().start()),
                size: held.lease.range().len(),
            })
            .collect(),
        ..Tables::default()
    };
    for (name, space) in &context.spaces {
        add_space(context, name, &space.space, &mut tables);
    }
    tables
}

fn locked(context: &Context<'_>, regions: &[RegionStatus]) -> Locked {
    let charged = regions.iter().filter(|region| region.containers > 0);
    let registered = charged.map(|region| region.range.len()).sum();
    let total = context.locked();
    Locked { total, registered, tables: total.saturating_sub(registered) }
}

fn add_space(context: &Context<'_>, name: &str, space: &AddressSpace, tables: &mut Tables) {
    let status = space.status();
    let index = |number| context.groups.iter().position(|group| group.number == number).unwrap_or(usize::MAX);
    tables.groups.extend(status.groups.iter().map(|group| GroupRow {
        space: name.to_owned(),
        group: index(group.group),
        container: group.container,
    }));
    let waiting = status.facts.and_then(|facts| facts.default).filter(|_| status.default == DefaultWindow::Pending);
    tables.windows.extend(waiting.map(|range| WindowRow {
        space: name.to_owned(),
        name: None,
        start: range.start().to_string(),
        size: range.len(),
        page: DEFAULT_PAGE.bytes(),
        levels: None,
        origin: "default".into(),
        mapped: 0,
    }));
    let mut windows = status.windows;
    windows.sort_by_key(|(window, _)| window.range);
    tables.windows.extend(windows.iter().map(|(window, mapped)| WindowRow {
        space: name.to_owned(),
        name: context.window_name(name, window.range.start()).map(str::to_owned),
        start: window.range.start().to_string(),
        size: window.range.len(),
        page: window.page.bytes(),
        levels: Some(window.levels),
        origin: window.origin.to_string(),
        mapped: *mapped,
    }));
    tables.maps.extend(space.mappings().iter().map(|mapping| MapRow {
        space: name.to_owned(),
        iova: mapping.iova.start().to_string(),
        size: mapping.iova.len(),
        memory: context.places.show(mapping.user),
        access: mapping.permission.to_string(),
    }));
}

/// The state between two steps.
pub struct RunState<'a>(&'a Context<'a>);

impl RunState<'_> {
    /// Iterates over the address spaces, each with its name.
    pub fn spaces(&self) -> impl Iterator<Item = (&str, &AddressSpace)> {
        self.0.spaces.iter().map(|(name, space)| (name.as_str(), &space.space))
    }

    /// Returns the mapped bytes, over all spaces.
    pub fn mapped(&self) -> u64 {
        self.spaces().map(|(_, space)| space.mapped().1).sum()
    }

    /// Returns the locked memory.
    pub fn locked(&self) -> Locked {
        locked(self.0, &self.0.registry.regions())
    }

    /// Returns all that there is. Takes as long as that is.
    pub fn tables(&self) -> Tables {
        tables(self.0)
    }
}

impl core::fmt::Debug for RunState<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "RunState({} bytes mapped)", self.mapped())
    }
}

/// Watches a run.
pub trait Observer {
    /// Returns whether to end the run before the next step, and release everything.
    fn ends_run(&mut self) -> bool {
        false
    }

    /// A step begins: its number, the number of steps, and its action.
    fn begins(&mut self, number: usize, count: usize, action: &str) {
        let _ = (number, count, action);
    }

    /// A step has made progress, in bytes.
    fn progress(&mut self, done: u64, all: u64) {
        let _ = (done, all);
    }

    /// The state before the step that begins.
    fn before_step(&mut self, state: &RunState<'_>) {
        let _ = state;
    }

    /// The state after a step has run.
    fn after_step(&mut self, state: &RunState<'_>) {
        let _ = state;
    }

    /// All steps have run, and nothing is released yet.
    fn before_release(&mut self, state: &RunState<'_>) {
        let _ = state;
    }

    /// A step is done.
    fn done(&mut self, step: &StepReport) {
        let _ = step;
    }
}

/// Watches nothing.
impl Observer for () {}
