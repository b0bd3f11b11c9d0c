//! The input of a plan: current windows, their limits, and the state after another plan was carried
//! out.

use super::plan::{Plan, Planned, Step};
use super::powernv;
use super::table;
use super::{DEFAULT_PAGE, DefaultWindow, Origin, PlanError, Reason, Window, WindowFacts};
use crate::addr::{Iova, IovaRange, PageShift};
use crate::host::{Memlock, Platform, memlock};

/// A live window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveWindow {
    /// Its range, page, levels and origin.
    pub window: Window,
    /// Whether something in it is mapped or reserved.
    pub in_use: bool,
}

/// The input of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanInput {
    /// Facts the host reports.
    pub facts: WindowFacts,
    /// State of the default window.
    pub default: DefaultWindow,
    /// Number of containers in which it waits: all, none, or those that joined since it was
    /// created.
    pub default_waits: u32,
    /// Whether something is reserved in the waiting default window.
    pub default_reserved: bool,
    /// The live windows.
    pub live: Vec<LiveWindow>,
    /// Number of containers that each get the window.
    pub containers: u32,
    /// Locked memory of the process.
    pub memlock: Memlock,
    /// Bytes that default windows of other address spaces will lock once they are used.
    pub promised: u64,
    /// Memory of the machine that could be used, bytes; `None` where it is not known.
    pub available: Option<u64>,
}

impl PlanInput {
    pub(super) fn default_range(&self) -> Option<IovaRange> {
        self.facts.default.filter(|_| self.default == DefaultWindow::Pending)
    }

    /// Returns the charge for the default window where it still waits.
    pub(crate) fn default_window_cost(&self) -> u64 {
        let one = self.facts.default.map_or(0, |range| table::locked_bytes(&self.facts, DEFAULT_PAGE, range.len(), 1));
        one.saturating_mul(self.default_waits.into())
    }

    /// Returns what already serves `range`.
    pub(super) fn existing_window(&self, range: IovaRange) -> Option<(IovaRange, PageShift, u32, Reason)> {
        let live = self.live.iter().map(|live| live.window);
        live.map(|window| (window.range, window.page, window.levels, Reason::Serves(window.range)))
            .chain(self.default_range().map(|range| (range, DEFAULT_PAGE, 1, Reason::DefaultServes)))
            .find(|(window, ..)| window.contains_range(&range))
    }

    /// Checks that tables charged `needed` bytes, over all containers, may be created.
    pub fn check_budget(&self, needed: u64) -> Result<(), PlanError> {
        self.check_budget_with(0, needed)
    }

    /// Whether what a plan makes may be made, once what it removes is gone.
    pub(crate) fn check_plan_budget(&self, plan: &Plan) -> Result<(), PlanError> {
        self.check_budget_with(self.given_back(plan), plan.peak_bytes)
    }

    fn check_budget_with(&self, given_back: u64, needed: u64) -> Result<(), PlanError> {
        let memlock = Memlock { locked: self.memlock.locked.saturating_sub(given_back), ..self.memlock };
        memlock::check(memlock, self.promised, "the TCE tables", needed)?;
        // A pseries table is allocated whole, and when that fails the kernel goes on without and
        // dies at the first MAP.
        match self.available.filter(|&available| needed > available / 2) {
            Some(available) if self.facts.platform == Platform::Pseries => {
                Err(PlanError::NoMemory { needed, available })
            }
            _ => Ok(()),
        }
    }

    /// Returns the input after a plan was carried out and its window used.
    pub fn after(&self, plan: &Plan) -> Self {
        let mut after = self.clone();
        for step in &plan.steps {
            match *step {
                Step::Remove(start) => {
                    let gone = |live: &LiveWindow| live.window.range.start() == start;
                    let dynamic = |live: &LiveWindow| live.window.origin != Origin::Default;
                    if !after.live.iter().any(|live| gone(live) && dynamic(live)) {
                        (after.default, after.default_waits) = (DefaultWindow::Gone, 0);
                    }
                    after.live.retain(|live| !gone(live));
                }
                Step::Create { .. } | Step::HoldSlot { .. } => after.default_lives(),
                Step::FreeSlot => {}
            }
        }
        let Planned { start, size, page, levels } = plan.window;
        if plan.steps.is_empty() {
            if self.facts.default.map(|range| range.start()) == start {
                after.default_lives();
            }
        } else if let Ok(range) = IovaRange::new(start.unwrap_or(powernv::SECOND), size) {
            let again = self.facts.platform == Platform::Pseries && self.facts.default == Some(range);
            let origin = if again { Origin::Default } else { Origin::Requested };
            after.default = if again { DefaultWindow::Live } else { after.default };
            after.live.push(LiveWindow { window: Window { range, page, levels, origin }, in_use: true });
        }
        let used = |live: &mut LiveWindow| live.in_use |= Some(live.window.range.start()) == start;
        after.live.iter_mut().for_each(used);
        let given_back = self.given_back(plan);
        after.memlock.locked = after.memlock.locked.saturating_add(plan.locked_bytes).saturating_sub(given_back);
        after
    }

    /// What there is once the window that starts at `start` is gone, whatever is mapped in it.
    pub(crate) fn without(&self, start: Iova) -> Self {
        let mut without = self.clone();
        let locked = self.gives_back(&Step::Remove(start));
        without.memlock.locked = without.memlock.locked.saturating_sub(locked);
        let is_default = |live: &LiveWindow| live.window.origin == Origin::Default;
        let gone = self.live.iter().find(|live| live.window.range.start() == start);
        if gone.map_or_else(|| self.default_range().is_some_and(|range| range.start() == start), is_default) {
            (without.default, without.default_waits, without.default_reserved) = (DefaultWindow::Gone, 0, false);
        }
        without.live.retain(|live| live.window.range.start() != start);
        without
    }

    fn given_back(&self, plan: &Plan) -> u64 {
        plan.steps.iter().map(|step| self.gives_back(step)).fold(0, u64::saturating_add)
    }

    /// Bytes of locked memory that come back with a step, over all containers.
    fn gives_back(&self, step: &Step) -> u64 {
        let Step::Remove(start) = *step else { return 0 };
        let Some(live) = self.live.iter().find(|live| live.window.range.start() == start) else {
            return 0;
        };
        let Window { range, page, levels, origin } = live.window;
        let waits = if origin == Origin::Default { self.default_waits } else { 0 };
        let made = self.containers.saturating_sub(waits);
        table::locked_bytes(&self.facts, page, range.len(), levels).saturating_mul(made.into())
    }

    /// The waiting default window comes to life.
    fn default_lives(&mut self) {
        if let Some(range) = self.default_range() {
            let window = Window { range, page: DEFAULT_PAGE, levels: 1, origin: Origin::Default };
            self.live.push(LiveWindow { window, in_use: false });
            (self.default, self.default_waits) = (DefaultWindow::Live, 0);
        }
    }

    /// Finds a window that holds a part of `range` and cannot be enlarged.
    pub(super) fn fixed_overlap(&self, range: IovaRange) -> Option<IovaRange> {
        let fixed = self.live.iter().filter(|live| live.window.origin != Origin::Demand);
        fixed
            .map(|live| live.window.range)
            .chain(self.default_range())
            .find(|window| window.intersection(&range).is_some())
    }

    pub(super) fn plan(
        &self,
        window: Planned,
        steps: Vec<Step>,
        locked_bytes: u64,
        peak_bytes: u64,
        reasons: Vec<Reason>,
    ) -> Plan {
        let ioctls = self.containers.saturating_mul(steps.len() as u32);
        let teardown = table::teardown(&self.facts, window.page, window.size, window.levels);
        Plan { steps, window, locked_bytes, peak_bytes, teardown, ioctls, reasons }
    }
}
