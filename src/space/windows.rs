//! Creates and removes the windows of a space by plan, in every container alike.

use super::container::Container;
use super::{AddressSpace, State, WindowError};
use crate::addr::{Iova, IovaRange};
use crate::host::{Platform, calls, memlock};
use crate::registry::Charging;
use crate::window::{
    DEFAULT_PAGE, DefaultWindow, Holder, LiveWindow, Origin, Plan, PlanError, PlanInput, Planned, Step, Want, Window,
    WindowRequest, locked_bytes, plan, plan_removal,
};

/// Bus addresses that need a window, and the plan for it.
pub(super) struct Missing {
    pub range: IovaRange,
    pub plan: Plan,
}

impl AddressSpace {
    /// Plans how to get a window, with reasons, or returns why it is impossible. Makes no kernel
    /// call that changes anything.
    pub fn plan(&self, request: &WindowRequest) -> Result<Plan, WindowError> {
        let state = &self.0.state.lock().state;
        self.plan_in(state, &self.plan_input(state, None)?, request)
    }

    /// Creates a window, unless an existing one serves, and returns it. It stays until it is
    /// removed.
    pub fn create_window(&self, request: &WindowRequest) -> Result<Window, WindowError> {
        let state = &mut self.0.state.lock().state;
        let plan = self.plan_in(state, &self.plan_input(state, None)?, request)?;
        let window = self.carry_out(state, &plan, Origin::Requested)?;
        if let Some(window) = window {
            state.windows.keep(window.range.start());
            must_hold(&window, request).or_else(|error| self.remove_in(state, window.range.start()).and(Err(error)))?;
        }
        window
            .map(|window| state.windows.containing(window.range).copied().unwrap_or(window))
            .or_else(|| default_window(state))
            .ok_or(WindowError::NoGroup)
    }

    /// Removes the window that starts at `start`. Refused while something in it is mapped or
    /// reserved.
    pub fn remove_window(&self, start: Iova) -> Result<(), WindowError> {
        self.remove_planned(&mut self.0.state.lock().state, start)
    }

    fn remove_planned(&self, state: &mut State, start: Iova) -> Result<(), WindowError> {
        plan_removal(&self.plan_input(state, None)?, start)?;
        self.remove_in(state, start)
    }

    /// Gives up the default window, so that its TCE table is never made or its place is free. It
    /// does not come back by itself. Other windows start where they would with it.
    pub fn drop_default_window(&self) -> Result<(), WindowError> {
        let state = &mut self.0.state.lock().state;
        let facts = state.facts.ok_or(WindowError::NoGroup)?;
        let start = facts.default.filter(|_| state.windows.default != DefaultWindow::Gone).map(|range| range.start());
        start.map_or(Ok(()), |start| self.remove_planned(state, start))
    }

    /// Reserves `range`, so that it stays mappable from now on: the window it needs is created,
    /// large enough for everything reserved, and stays until [`Self::unreserve`].
    pub fn reserve(&self, range: IovaRange) -> Result<Window, WindowError> {
        let state = &mut self.0.state.lock().state;
        let all = with_reserved(state, range);
        let request = WindowRequest::cover(all);
        let plan = self.plan_in(state, &self.plan_input(state, Some(all))?, &request)?;
        let charging = self.charging_for(state, &plan)?;
        let window = self.carry_out_charged(state, &plan, Origin::Demand)?;
        if let Some(window) = window {
            must_hold(&window, &request)
                .or_else(|error| self.remove_in(state, window.range.start()).and(Err(error)))?;
        }
        state.reserved.insert(range.start().0..range.end().0);
        self.settle(state);
        drop(charging);
        window.or_else(|| default_window(state)).ok_or(WindowError::NoGroup)
    }

    /// Unreserves a range, and removes windows that are no longer needed.
    pub fn unreserve(&self, range: IovaRange) -> Result<(), WindowError> {
        {
            let state = &mut self.0.state.lock().state;
            state.reserved.remove(range.start().0..range.end().0);
            self.settle(state);
        }
        self.trim()
    }

    /// Removes windows created on demand in which nothing is mapped or reserved any longer.
    pub fn trim(&self) -> Result<(), WindowError> {
        let state = &mut self.0.state.lock().state;
        if state.containers.is_empty() {
            return Ok(());
        }
        let input = self.plan_input(state, None)?;
        let idle = |live: &&LiveWindow| live.window.origin == Origin::Demand && !live.in_use;
        for live in input.live.iter().filter(idle) {
            self.remove_in(state, live.window.range.start())?;
        }
        Ok(())
    }

    /// Collects the input of a plan, without the reservation `except`, which is being made just
    /// now.
    pub(super) fn plan_input(&self, state: &State, except: Option<IovaRange>) -> Result<PlanInput, WindowError> {
        let facts = state.facts.ok_or(WindowError::NoGroup)?;
        let mappings = self.0.mappings.read();
        let asked = |range: IovaRange| {
            let apart = |asked: &std::ops::Range<u64>| {
                except.is_none_or(|except| asked.start < except.start().0 || except.end().0 < asked.end)
            };
            state.reserved.overlapping(&(range.start().0..range.end().0)).any(apart)
        };
        let live = |window: &Window| LiveWindow {
            window: *window,
            in_use: asked(window.range)
                || mappings.first_overlap(window.range).is_some()
                || state.stale.first_overlap(window.range).is_some(),
        };
        Ok(PlanInput {
            facts,
            default: state.windows.default,
            default_waits: state.containers.iter().filter(|container| container.default_waits).count() as u32,
            default_reserved: facts.default.is_some_and(asked),
            live: state.windows.iter().map(live).collect(),
            containers: state.container_files.len() as u32,
            available: self.host().available_memory(),
            memlock: memlock::read(self.host()).map_err(PlanError::from)?,
            promised: self.promised_by_others(),
        })
    }

    /// Plans from the current windows and the kernel's earlier refusals.
    pub(super) fn plan_in(
        &self,
        state: &State,
        input: &PlanInput,
        request: &WindowRequest,
    ) -> Result<Plan, WindowError> {
        let plan = plan(input, request)?;
        let refused = self.refused_windows();
        for group in state.containers.iter().flat_map(|container| &container.groups) {
            for step in &plan.steps {
                if let Step::Create { page, size, .. } | Step::HoldSlot { page, size } = *step {
                    refused.check(group.number, page, size)?;
                }
            }
        }
        drop(refused);
        // Any CREATE makes the waiting default window first.
        if !plan.steps.iter().any(|step| matches!(step, Step::Remove(_))) {
            self.default_may_come(state)?;
        }
        Ok(plan)
    }

    /// Checks that the default window may be created in the containers where it waits.
    fn default_may_come(&self, state: &State) -> Result<(), PlanError> {
        let Some(window) = default_window(state) else { return Ok(()) };
        let refused = self.refused_windows();
        let waiting = state.containers.iter().filter(|container| container.default_waits);
        waiting
            .flat_map(|container| &container.groups)
            .try_for_each(|group| refused.check(group.number, window.page, window.range.len()))
    }

    /// Creates the window that map requests are missing. Returns the range of a newly created one.
    pub(super) fn make_missing(&self, state: &mut State, missing: Missing) -> Result<Option<IovaRange>, WindowError> {
        let Missing { range, plan } = missing;
        let charging = self.charging_for(state, &plan)?;
        let Some(window) = self.carry_out_charged(state, &plan, Origin::Demand)? else {
            self.make_default(state)?;
            return Ok(None);
        };
        drop(charging);
        if !window.range.contains_range(&range) {
            let (start, expected) = (window.range.start(), range.start());
            self.remove_in(state, start)?;
            return Err(WindowError::Elsewhere { start, expected });
        }
        Ok((window.origin == Origin::Demand && !plan.steps.is_empty()).then_some(window.range))
    }

    /// Removes windows that were created for a map the kernel refused.
    pub(super) fn remove_created(&self, state: &mut State, made: &[IovaRange]) {
        for range in made {
            if let Err(error) = self.remove_in(state, range.start()) {
                tracing::warn!(%error, "a window made for a map that failed stays");
            }
        }
    }

    /// Carries out a plan in every container, if it can still be afforded. The window it leads to;
    /// `None` for the default window, when that waits.
    fn carry_out(&self, state: &mut State, plan: &Plan, origin: Origin) -> Result<Option<Window>, WindowError> {
        let _charging = self.charging_for(state, plan)?;
        self.carry_out_charged(state, plan, origin)
    }

    /// The same for a plan that is known to be afforded, while nobody else charges memory.
    pub(super) fn carry_out_charged(
        &self,
        state: &mut State,
        plan: &Plan,
        origin: Origin,
    ) -> Result<Option<Window>, WindowError> {
        let result = self.carry_out_steps(state, plan, origin);
        self.settle(state);
        result
    }

    fn carry_out_steps(&self, state: &mut State, plan: &Plan, origin: Origin) -> Result<Option<Window>, WindowError> {
        let mut gone = Vec::new();
        let holds = plan.steps.iter().any(|step| matches!(step, Step::HoldSlot { .. }));
        let holder = state.facts.and_then(|facts| facts.holder()).filter(|_| holds);
        for step in &plan.steps {
            match *step {
                Step::Remove(start) => {
                    self.remove_in(state, start)?;
                    gone.push(start);
                }
                // KvmPins and freed around the creation, container by container.
                Step::HoldSlot { .. } | Step::FreeSlot => {}
                Step::Create { page, size, levels } => {
                    let start = self.create_in(state, plan, holder, gone)?;
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
    fn create_in(
        &self,
        state: &mut State,
        plan: &Plan,
        holder: Option<Holder>,
        gone: Vec<Iova>,
    ) -> Result<Iova, WindowError> {
        let facts = state.facts.ok_or(WindowError::NoGroup)?;
        let mut expected = plan.window.start;
        for done in 0..state.containers.len() {
            let size = plan.window.size;
            let fits = |start| expected.is_none_or(|there| there == start) && IovaRange::new(start, size).is_ok();
            match self.create_one(&facts, &mut state.containers[done], &plan.window, holder) {
                Ok(start) if fits(start) => expected = Some(start),
                Ok(start) => {
                    self.undo(&mut state.containers[done..=done], start);
                    expected.into_iter().for_each(|start| self.undo(&mut state.containers[..done], start));
                    // CREATE made the waiting default window first.
                    default_comes(state);
                    return Err(WindowError::Elsewhere { start, expected: expected.unwrap_or_default() });
                }
                Err(error) => {
                    expected.into_iter().for_each(|start| self.undo(&mut state.containers[..done], start));
                    // The kernel made the waiting default window first, unless that is what failed.
                    // Taken for live it does no harm: whatever is asked of it next makes it.
                    default_comes(state);
                    return Err(WindowError::Call { error, gone });
                }
            }
        }
        // CREATE makes the waiting default window first.
        default_comes(state);
        Ok(expected.unwrap_or_default())
    }

    pub(super) fn remove_in(&self, state: &mut State, start: Iova) -> Result<(), WindowError> {
        let there = state.windows.iter().find(|window| window.range.start() == start).copied();
        let default = there.is_none_or(|window| window.origin == Origin::Default);
        for container in &mut state.containers {
            // A waiting default window is cancelled by 0, wherever it would start.
            let named = if default && container.default_waits { Iova(0) } else { start };
            calls::tce_remove(self.host(), container.fd(), named)
                .map_err(|error| WindowError::Call { error, gone: Vec::new() })?;
            container.default_waits &= !default;
        }
        match there {
            Some(window) => drop(state.windows.remove(window.range)),
            None => state.windows.default = DefaultWindow::Gone,
        }
        self.settle(state);
        Ok(())
    }

    /// Makes the kernel create the default window wherever it waits, by an UNMAP of one page in it.
    /// If that were left to the first MAP, a failure could have come before or after the creation.
    ///
    /// The containers have registered memory by now, without which they take no UNMAP. Nobody else
    /// charges memory meanwhile.
    fn make_default(&self, state: &mut State) -> Result<(), WindowError> {
        let Some(facts) = state.facts else { return Ok(()) };
        let Some(window) = default_window(state) else { return Ok(()) };
        let Ok(page) = IovaRange::new(window.range.start(), window.page.bytes()) else { return Ok(()) };
        let table = Planned { start: None, size: window.range.len(), page: window.page, levels: 1 };
        for container in state.containers.iter_mut().filter(|container| container.default_waits) {
            calls::unmap_dma(self.host(), container.fd(), page).map_err(|error| {
                self.remember(&facts, container, &table, &error);
                WindowError::Call { error, gone: Vec::new() }
            })?;
            container.default_waits = false;
        }
        default_comes(state);
        self.settle(state);
        Ok(())
    }

    /// Creates the default window in containers that joined after it was created, once something is
    /// mapped in it.
    pub(super) fn make_default_everywhere(&self, state: &mut State) -> Result<(), WindowError> {
        let _charging = self.0.registry.charging();
        let input = self.plan_input(state, None)?;
        input.check_budget(input.default_window_cost())?;
        self.default_may_come(state)?;
        self.make_default(state)
    }

    /// Gives a container that joins the windows the space has, slot by slot. Until what this
    /// returns is dropped nobody else charges memory: the first MAP makes the default window.
    pub(super) fn make_alike(&self, state: &State, container: &mut Container) -> Result<Charging<'_>, WindowError> {
        let Some(facts) = state.facts else { return Err(WindowError::NoGroup) };
        let mut dynamic: Vec<_> = state.windows.iter().filter(|window| window.origin != Origin::Default).collect();
        dynamic.sort_by_key(|window| window.range.start());
        let waits = state.windows.default == DefaultWindow::Gone && facts.default.is_some();
        let drop_default = |container: &mut Container| {
            let call = |error| WindowError::Call { error, gone: Vec::new() };
            container.default_waits = false;
            calls::tce_remove(self.host(), container.fd(), Iova(0)).map_err(call)
        };
        // The lowest free slot decides where a window starts. On pseries a default window that is
        // to be gone keeps its slot, the first, until the second is filled, unless the firmware
        // grants one window.
        let pseries = facts.platform == Platform::Pseries;
        let last = pseries && facts.windows.is_some_and(|granted| granted >= 2) && !dynamic.is_empty();
        let high = waits && dynamic.first().is_some_and(|window| window.range.start().0 != 0);
        let holder = facts.holder().filter(|_| high);
        let table = |window: &Window| locked_bytes(&facts, window.page, window.range.len(), window.levels);
        let default = default_window(state).filter(|_| !waits || last);
        let held = holder.map_or(0, |holder| holder.locked_bytes);
        let locked = dynamic.iter().map(|window| table(window)).chain(default.iter().map(table)).sum::<u64>() + held;
        let charging = self.0.registry.charging();
        let input = self.plan_input(state, None)?;
        // What the other containers wait for stays theirs.
        input.check_budget(locked.saturating_add(input.default_window_cost()))?;
        {
            let refused = self.refused_windows();
            let made = dynamic.iter().copied().chain(default.as_ref());
            for (window, group) in made.flat_map(|window| container.groups.iter().map(move |group| (window, group))) {
                refused.check(group.number, window.page, window.range.len())?;
            }
        }
        if waits && !last {
            drop_default(container)?;
        }
        // A live default window is created by the first call that needs it.
        for window in dynamic {
            let Window { range, page, levels, .. } = *window;
            let planned = Planned { start: Some(range.start()), size: range.len(), page, levels };
            let start = self
                .create_one(&facts, container, &planned, holder)
                .map_err(|error| WindowError::Call { error, gone: Vec::new() })?;
            if start != range.start() {
                return Err(WindowError::Elsewhere { start, expected: range.start() });
            }
        }
        if waits && last {
            drop_default(container)?;
        }
        Ok(charging)
    }
}

/// Checks that a created window holds what it was created for: firmware may have placed it
/// elsewhere.
fn must_hold(window: &Window, request: &WindowRequest) -> Result<(), WindowError> {
    match request.want {
        Want::Cover(range) if !window.range.contains_range(&range) => {
            Err(WindowError::Elsewhere { start: window.range.start(), expected: range.start() })
        }
        _ => Ok(()),
    }
}

/// Records the waiting default window as live.
fn default_comes(state: &mut State) {
    if state.windows.default == DefaultWindow::Pending {
        default_window(state).into_iter().for_each(|window| state.windows.insert(window));
    }
}

/// Returns the default window as it is, or will be.
fn default_window(state: &State) -> Option<Window> {
    let range = state.facts.and_then(|facts| facts.default)?;
    Some(Window { range, page: DEFAULT_PAGE, levels: 1, origin: Origin::Default })
}

/// Extends `range` over earlier reservations in the window that could hold it.
pub(super) fn with_reserved(state: &State, range: IovaRange) -> IovaRange {
    let default = state.facts.and_then(|facts| facts.default);
    let low = |start: u64| default.is_some_and(|default| default.contains(Iova(start)));
    if low(range.start().0) {
        return range;
    }
    let side = |start: u64| (low(start), state.facts.is_some_and(|facts| facts.is_high(Iova(start))));
    let mut hull = (range.start().0, range.end().0);
    for asked in state.reserved.iter().filter(|asked| side(asked.start) == side(range.start().0)) {
        hull = (hull.0.min(asked.start), hull.1.max(asked.end));
    }
    IovaRange::between(Iova(hull.0), Iova(hull.1)).unwrap_or(range)
}
