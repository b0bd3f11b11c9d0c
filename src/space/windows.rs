//! Windows of a space: made and removed by plan, in every container alike.

use super::{AddressSpace, State, WindowError};
use crate::addr::{Iova, IovaRange};
use crate::host::calls::{self, CallError, Failure};
use crate::host::{Errno, Fd, Platform};
use crate::memlock::MemlockError;
use crate::window::{
    DEFAULT_PAGE, DefaultWindow, Origin, Plan, Refusal, Situation, Standing, Step, Window, WindowRequest, plan,
    plan_removal,
};

/// Bus addresses that need a window made, and the plan for it.
pub(super) struct Missing {
    pub range: IovaRange,
    pub plan: Plan,
}

impl AddressSpace {
    /// What would be done to get a window, and why; or why it cannot be had. Asks nothing of the kernel.
    pub fn plan(&self, request: &WindowRequest) -> Result<Plan, WindowError> {
        self.plan_in(&self.0.state.lock().state, request, None)
    }

    /// Makes a window, unless one is there that serves, and returns it. It stays until it is removed.
    pub fn create_window(&self, request: &WindowRequest) -> Result<Window, WindowError> {
        let state = &mut self.0.state.lock().state;
        let plan = self.plan_in(state, request, None)?;
        let window = self.carry_out(state, &plan, Origin::Asked)?;
        window.or_else(|| default_window(state)).ok_or(WindowError::NoGroup)
    }

    /// Removes the window that starts at `start`. Refused while something is mapped in it, or asked to be.
    pub fn remove_window(&self, start: Iova) -> Result<(), WindowError> {
        let state = &mut self.0.state.lock().state;
        let situation = self.situation(state, None)?;
        plan_removal(&situation, start)?;
        self.remove_in(state, start)
    }

    /// Gives up the default window, so that its TCE table is never made or its place is free. It does not come back by
    /// itself. On powernv the next window starts at bus address 0 then.
    pub fn drop_default_window(&self) -> Result<(), WindowError> {
        let start = {
            let state = &self.0.state.lock().state;
            let facts = state.facts.ok_or(WindowError::NoGroup)?;
            if state.windows.default == DefaultWindow::Gone {
                return Ok(());
            }
            facts.default.map(|range| range.start())
        };
        start.map_or(Ok(()), |start| self.remove_window(start))
    }

    /// Asks that `range` be mappable from now on: the window it needs is made, large enough for all that is asked, and
    /// stays until [`Self::unask`].
    pub fn ask(&self, range: IovaRange) -> Result<Window, WindowError> {
        let state = &mut self.0.state.lock().state;
        let all = with_asked(state, range);
        let plan = self.plan_in(state, &WindowRequest::cover(all), Some(all))?;
        let window = self.carry_out(state, &plan, Origin::Demand)?;
        state.asked.insert(range.start().0..range.end().0);
        window.or_else(|| default_window(state)).ok_or(WindowError::NoGroup)
    }

    /// Takes back what was asked, and removes windows that are needed no more.
    pub fn unask(&self, range: IovaRange) -> Result<(), WindowError> {
        self.0.state.lock().state.asked.remove(range.start().0..range.end().0);
        self.trim()
    }

    /// Removes windows that were made on demand and in which nothing is mapped nor asked any more.
    pub fn trim(&self) -> Result<(), WindowError> {
        let state = &mut self.0.state.lock().state;
        if state.members.is_empty() {
            return Ok(());
        }
        let situation = self.situation(state, None)?;
        let idle = |standing: &&Standing| standing.window.origin == Origin::Demand && !standing.in_use;
        for standing in situation.standing.iter().filter(idle) {
            self.remove_in(state, standing.window.range.start())?;
        }
        Ok(())
    }

    /// What there is, but for `except`, which is being asked just now.
    fn situation(&self, state: &State, except: Option<IovaRange>) -> Result<Situation, WindowError> {
        let facts = state.facts.ok_or(WindowError::NoGroup)?;
        let books = self.0.books.read();
        let asked = |range: IovaRange| {
            let apart = |asked: &std::ops::Range<u64>| {
                except.is_none_or(|except| asked.start < except.start().0 || except.end().0 < asked.end)
            };
            state.asked.overlapping(&(range.start().0..range.end().0)).any(apart)
        };
        let standing = |window: &Window| Standing {
            window: *window,
            in_use: asked(window.range) || books.first_overlap(window.range).is_some(),
        };
        Ok(Situation {
            facts,
            default: state.windows.default,
            default_asked: facts.default.is_some_and(asked),
            standing: state.windows.iter().map(standing).collect(),
            containers: state.containers.len() as u32,
            available: self.host().available_memory(),
            memlock: self.host().memlock().map_err(|errno| Refusal::from(MemlockError::Unknown(errno)))?,
        })
    }

    /// Plans by what there is and what the kernel refused before.
    pub(super) fn plan_in(
        &self,
        state: &State,
        request: &WindowRequest,
        except: Option<IovaRange>,
    ) -> Result<Plan, WindowError> {
        let plan = plan(&self.situation(state, except)?, request)?;
        for step in &plan.steps {
            let Step::Create { page, size, .. } = *step else { continue };
            if state.poisoned {
                return Err(Refusal::Poisoned.into());
            }
            if state.refused.iter().any(|&(refused, least)| refused == page && least <= size) {
                return Err(Refusal::RefusedBefore { size, page }.into());
            }
        }
        Ok(plan)
    }

    /// Makes the window that requests of a map are missing; the range of one that was created.
    pub(super) fn make_missing(
        &self,
        state: &mut State,
        missing: Option<Missing>,
    ) -> Result<Option<IovaRange>, WindowError> {
        let Some(Missing { range, plan }) = missing else { return Ok(None) };
        let Some(window) = self.carry_out(state, &plan, Origin::Demand)? else {
            self.materialize_default(state)?;
            return Ok(None);
        };
        if !window.range.contains_range(&range) {
            let (start, expected) = (window.range.start(), range.start());
            self.remove_in(state, start)?;
            return Err(WindowError::Elsewhere { start, expected });
        }
        Ok((window.origin == Origin::Demand && !plan.steps.is_empty()).then_some(window.range))
    }

    /// Removes a window again that was made for a map the kernel refused.
    pub(super) fn unmake(&self, state: &mut State, made: Option<IovaRange>) {
        if let Some(range) = made
            && let Err(error) = self.remove_in(state, range.start())
        {
            tracing::warn!(%error, "a window made for a map that failed stays");
        }
    }

    /// Carries out a plan in every container. The window it leads to; `None` for the default window, when that waits.
    fn carry_out(&self, state: &mut State, plan: &Plan, origin: Origin) -> Result<Option<Window>, WindowError> {
        let mut gone = Vec::new();
        for step in &plan.steps {
            match *step {
                Step::Remove(start) => {
                    self.remove_in(state, start)?;
                    gone.push(start);
                }
                Step::Create { page, size, levels } => {
                    let start = self.create_in(state, plan, gone)?;
                    let Ok(range) = IovaRange::new(start, size) else {
                        return Err(WindowError::Elsewhere { start, expected: Iova(0) });
                    };
                    let comes_back = state.windows.default == DefaultWindow::Gone
                        && state.facts.is_some_and(|facts| facts.platform == Platform::Pseries)
                        && state.facts.and_then(|facts| facts.default).is_some_and(|old| old.start() == start);
                    let origin = if comes_back { Origin::Default } else { origin };
                    let window = Window { range, page, levels, origin };
                    state.windows.insert(window);
                    return Ok(Some(window));
                }
            }
        }
        let start = plan.window.start.unwrap_or_default();
        Ok(state.windows.iter().find(|window| window.range.start() == start).copied())
    }

    /// Creates in every container, or in none, at the same place.
    fn create_in(&self, state: &mut State, plan: &Plan, gone: Vec<Iova>) -> Result<Iova, WindowError> {
        let host = self.host();
        let mut expected = plan.window.start;
        for (done, &container) in state.containers.iter().enumerate() {
            let (page, size, levels) = (plan.window.page, plan.window.size, plan.window.levels);
            let undo = |containers: &[Fd], start: Option<Iova>| {
                for &container in containers {
                    if let Some(start) = start
                        && let Err(error) = calls::tce_remove(host, container, start)
                    {
                        tracing::warn!(%error, "a window stays in one container");
                    }
                }
            };
            match calls::tce_create(host, container, page, size, levels) {
                Ok(start) if expected.is_none_or(|expected| expected == start) => expected = Some(start),
                Ok(start) => {
                    undo(&[container], Some(start));
                    undo(&state.containers[..done], expected);
                    return Err(WindowError::Elsewhere { start, expected: expected.unwrap_or_default() });
                }
                Err(error) => {
                    undo(&state.containers[..done], expected);
                    self.remember(state, plan, &error);
                    return Err(WindowError::Call { error, gone });
                }
            }
        }
        // CREATE makes the waiting default window first.
        if state.windows.default == DefaultWindow::Pending {
            default_window(state).into_iter().for_each(|window| state.windows.insert(window));
        }
        Ok(expected.unwrap_or_default())
    }

    /// A refused creation is never tried again: each try leaks the table's charge.
    fn remember(&self, state: &mut State, plan: &Plan, error: &CallError) {
        match error.failure {
            Failure::Errno(Errno::ENODEV) => state.poisoned = true,
            _ => state.refused.push((plan.window.page, plan.window.size)),
        }
    }

    fn remove_in(&self, state: &mut State, start: Iova) -> Result<(), WindowError> {
        for &container in &state.containers {
            calls::tce_remove(self.host(), container, start)
                .map_err(|error| WindowError::Call { error, gone: Vec::new() })?;
        }
        let there = state.windows.iter().find(|window| window.range.start() == start).map(|window| window.range);
        match there {
            Some(range) => drop(state.windows.remove(range)),
            None => state.windows.default = DefaultWindow::Gone,
        }
        Ok(())
    }

    /// Has the kernel create the waiting default window, by an UNMAP of one page in it: were it left to the first MAP,
    /// one could not tell whether that failed before or after.
    ///
    /// The container has registered memory by now, without which it takes no UNMAP.
    fn materialize_default(&self, state: &mut State) -> Result<(), WindowError> {
        let Some(window) = default_window(state) else { return Ok(()) };
        let Ok(page) = IovaRange::new(window.range.start(), window.page.bytes()) else { return Ok(()) };
        for &container in &state.containers {
            calls::unmap_dma(self.host(), container, page)
                .map_err(|error| WindowError::Call { error, gone: Vec::new() })?;
        }
        state.windows.insert(window);
        Ok(())
    }

    /// Gives a container that joins the windows the space has.
    pub(super) fn make_alike(&self, state: &State, container: Fd) -> Result<(), WindowError> {
        let host = self.host();
        let call = |error| WindowError::Call { error, gone: Vec::new() };
        let default = state.facts.and_then(|facts| facts.default);
        // A live one is created there by the first call that needs it.
        if let (DefaultWindow::Gone, Some(range)) = (state.windows.default, default) {
            calls::tce_remove(host, container, range.start()).map_err(call)?;
        }
        for window in state.windows.iter().filter(|window| window.origin != Origin::Default) {
            let (expected, size) = (window.range.start(), window.range.len());
            let start = calls::tce_create(host, container, window.page, size, window.levels).map_err(call)?;
            if start != expected {
                return Err(WindowError::Elsewhere { start, expected });
            }
        }
        Ok(())
    }
}

/// The default window as it is, or will be.
fn default_window(state: &State) -> Option<Window> {
    let range = state.facts.and_then(|facts| facts.default)?;
    Some(Window { range, page: DEFAULT_PAGE, levels: 1, origin: Origin::Default })
}

/// `range`, stretched over what was asked before of the window that could hold it.
pub(super) fn with_asked(state: &State, range: IovaRange) -> IovaRange {
    let default = state.facts.and_then(|facts| facts.default);
    let side = |start: u64| default.is_some_and(|default| default.contains(Iova(start)));
    let mut hull = (range.start().0, range.end().0);
    for asked in state.asked.iter().filter(|asked| side(asked.start) == side(range.start().0)) {
        hull = (hull.0.min(asked.start), hull.1.max(asked.end));
    }
    if side(range.start().0) { range } else { IovaRange::between(Iova(hull.0), Iova(hull.1)).unwrap_or(range) }
}
