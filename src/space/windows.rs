//! Creates and removes the windows of a space by plan, in every container alike.

use super::groups::Container;
use super::{AddressSpace, State, WindowError};
use crate::addr::{Iova, IovaRange};
use crate::host::{Memlock, Platform, calls};
use crate::map::Mapping;
use crate::registry::{Charging, RegionId};
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

    /// Creates a window, unless an existing one serves, and returns it. The window stays until it
    /// is removed.
    pub fn create_window(&self, request: &WindowRequest) -> Result<Window, WindowError> {
        let state = &mut self.0.state.lock().state;
        let plan = self.plan_in(state, &self.plan_input(state, None)?, request)?;
        let window = self.execute(state, &plan, Origin::Requested)?;
        if let Some(window) = window {
            state.windows.mark_requested(window.range.start());
            check_covers(&window, request)
                .or_else(|error| self.remove_in(state, window.range.start()).and(Err(error)))?;
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

    /// Removes the default window, so that its TCE table is never created or its slot is free. It
    /// does not come back by itself. Other windows start where they would with it.
    pub fn drop_default_window(&self) -> Result<(), WindowError> {
        let state = &mut self.0.state.lock().state;
        let facts = state.facts.ok_or(WindowError::NoGroup)?;
        let start = facts.default.filter(|_| state.windows.default != DefaultWindow::Gone).map(|range| range.start());
        start.map_or(Ok(()), |start| self.remove_planned(state, start))
    }

    /// Checks that [`Self::replace_window`] could be carried out now. Makes no call that changes
    /// anything.
    pub fn can_replace_window(&self, start: Iova, request: &WindowRequest) -> Result<(), WindowError> {
        self.can_replace(&[start], request)
    }

    /// Checks that the windows that start at `starts` could be removed, and another created in
    /// their place. Makes no call that changes anything.
    pub(crate) fn can_replace(&self, starts: &[Iova], request: &WindowRequest) -> Result<(), WindowError> {
        self.plan_without(&self.0.state.lock().state, starts, request).map(drop)
    }

    /// Removes the window that starts at `start`, with everything mapped in it, and then creates
    /// another.
    ///
    /// Fails with nothing changed if the other window cannot be planned or exceeds the limit of
    /// locked memory, counting what the first one frees. If the kernel refuses it nevertheless, the
    /// first one is gone.
    pub fn replace_window(&self, start: Iova, request: &WindowRequest) -> Result<Window, WindowError> {
        let state = &mut self.0.state.lock().state;
        let charging = self.0.registry.charging();
        let plan = self.plan_without(state, &[start], request)?;
        let range = window_at(state, start)?;
        let gone = self.discard_in(state, range)?;
        let created = self.execute_charged(state, &plan, Origin::Requested).map_err(|error| match error {
            WindowError::Call { error, mut gone } => {
                gone.insert(0, start);
                WindowError::Call { error, gone }
            }
            other => other,
        });
        // Unpinning may register a part of the memory again, which takes the same lock.
        drop(charging);
        self.0.registry.unpin(&mut state.pinner, gone.iter().map(|mapping| (mapping.region, mapping.iova.len())));
        created?.ok_or(WindowError::NoGroup)
    }

    /// Plans a window as if those that start at `starts` were removed already.
    fn plan_without(&self, state: &State, starts: &[Iova], request: &WindowRequest) -> Result<Plan, WindowError> {
        let mut input = self.plan_input(state, None)?;
        for &start in starts {
            window_at(state, start)?;
            input = input.without(start);
        }
        self.plan_in(state, &input, request)
    }

    /// Removes the window that starts at `start` with everything mapped in it, by the library or by
    /// KVM: the kernel clears its table. Ranges reserved in it are dropped.
    pub fn discard_window(&self, start: Iova) -> Result<(), WindowError> {
        let state = &mut self.0.state.lock().state;
        let facts = state.facts.ok_or(WindowError::NoGroup)?;
        let live = state.windows.iter().map(|window| window.range).find(|range| range.start() == start);
        let pending = state.windows.default == DefaultWindow::Pending;
        let default = facts.default.filter(|range| pending && range.start() == start);
        let windows = || state.windows.iter().copied().collect();
        let range = live.or(default).ok_or_else(|| PlanError::NoSuchWindow { start, windows: windows() })?;
        let gone = self.discard_in(state, range)?;
        self.0.registry.unpin(&mut state.pinner, gone.iter().map(|mapping| (mapping.region, mapping.iova.len())));
        Ok(())
    }

    /// Removes the window with exactly that range, its mappings and its reservations. Returns the
    /// mappings, which are still pinned.
    pub(super) fn discard_in(
        &self,
        state: &mut State,
        range: IovaRange,
    ) -> Result<Vec<Mapping<RegionId>>, WindowError> {
        self.remove_in(state, range.start())?;
        state.reserved.remove(range.raw());
        self.update_promise(state);
        let mut gone = Vec::new();
        gone.extend(self.0.mappings.read().overlapping(range));
        self.0.mappings.write().remove(range, |_| {});
        Ok(gone)
    }

    /// Reserves `range`, so that it stays mappable from now on: the window it needs is created,
    /// large enough for everything reserved, and stays until [`Self::unreserve`].
    pub fn reserve(&self, range: IovaRange) -> Result<Window, WindowError> {
        let state = &mut self.0.state.lock().state;
        let all = with_reserved(state, range);
        let request = WindowRequest::cover(all);
        let plan = self.plan_in(state, &self.plan_input(state, Some(all))?, &request)?;
        let charging = self.charging_for(state, &plan)?;
        let window = self.execute_charged(state, &plan, Origin::Demand)?;
        if let Some(window) = window {
            check_covers(&window, &request)
                .or_else(|error| self.remove_in(state, window.range.start()).and(Err(error)))?;
        }
        state.reserved.insert(range.raw());
        self.update_promise(state);
        drop(charging);
        window.or_else(|| default_window(state)).ok_or(WindowError::NoGroup)
    }

    /// Unreserves a range, and removes windows that are no longer needed.
    pub fn unreserve(&self, range: IovaRange) -> Result<(), WindowError> {
        {
            let state = &mut self.0.state.lock().state;
            state.reserved.remove(range.raw());
            self.update_promise(state);
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

    /// Collects the input of a plan, without the reservation `except`, which is being made.
    pub(super) fn plan_input(&self, state: &State, except: Option<IovaRange>) -> Result<PlanInput, WindowError> {
        let facts = state.facts.ok_or(WindowError::NoGroup)?;
        let mappings = self.0.mappings.read();
        let reserved = |range: IovaRange| {
            let apart = |other: &std::ops::Range<u64>| {
                except.is_none_or(|except| other.start < except.start().0 || except.end().0 < other.end)
            };
            state.reserved.overlapping(&range.raw()).any(apart)
        };
        let live = |window: &Window| LiveWindow {
            window: *window,
            in_use: reserved(window.range)
                || mappings.first_overlap(window.range).is_some()
                || state.stale.first_overlap(window.range).is_some(),
        };
        Ok(PlanInput {
            facts,
            default: state.windows.default,
            default_pending: state.containers.iter().filter(|container| container.default_pending).count() as u32,
            default_reserved: facts.default.is_some_and(reserved),
            live: state.windows.iter().map(live).collect(),
            containers: state.container_files.len() as u32,
            available: self.host().available_memory(),
            memlock: Memlock::read(self.host()).map_err(PlanError::from)?,
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
        // Any CREATE creates the pending default window first.
        if !plan.steps.iter().any(|step| matches!(step, Step::Remove(_))) {
            self.check_default(state)?;
        }
        Ok(plan)
    }

    /// Checks that the kernel has not refused the default window in a container where it is
    /// pending.
    fn check_default(&self, state: &State) -> Result<(), PlanError> {
        let Some(window) = default_window(state) else { return Ok(()) };
        let refused = self.refused_windows();
        let pending = state.containers.iter().filter(|container| container.default_pending);
        pending
            .flat_map(|container| &container.groups)
            .try_for_each(|group| refused.check(group.number, window.page, window.range.len()))
    }

    /// Creates the window that map requests are missing. Returns the range of a newly created one.
    pub(super) fn create_missing(&self, state: &mut State, missing: Missing) -> Result<Option<IovaRange>, WindowError> {
        let Missing { range, plan } = missing;
        let charging = self.charging_for(state, &plan)?;
        let Some(window) = self.execute_charged(state, &plan, Origin::Demand)? else {
            self.create_default(state)?;
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
    pub(super) fn remove_created(&self, state: &mut State, created: &[IovaRange]) {
        for range in created {
            if let Err(error) = self.remove_in(state, range.start()) {
                tracing::warn!(%error, "a window created for a failed map stays");
            }
        }
    }

    /// Carries out a plan in every container, if the limit of locked memory still allows it.
    /// Returns the window it leads to; `None` for the pending default window.
    fn execute(&self, state: &mut State, plan: &Plan, origin: Origin) -> Result<Option<Window>, WindowError> {
        let _charging = self.charging_for(state, plan)?;
        self.execute_charged(state, plan, origin)
    }

    /// Does the same for a plan within the limit, while the caller keeps others from charging
    /// memory.
    pub(super) fn execute_charged(
        &self,
        state: &mut State,
        plan: &Plan,
        origin: Origin,
    ) -> Result<Option<Window>, WindowError> {
        let result = self.execute_steps(state, plan, origin);
        self.update_promise(state);
        result
    }

    fn execute_steps(&self, state: &mut State, plan: &Plan, origin: Origin) -> Result<Option<Window>, WindowError> {
        let mut gone = Vec::new();
        let holds = plan.steps.iter().any(|step| matches!(step, Step::HoldSlot { .. }));
        let holder = state.facts.and_then(|facts| facts.holder()).filter(|_| holds);
        for step in &plan.steps {
            match *step {
                Step::Remove(start) => {
                    self.remove_in(state, start)?;
                    gone.push(start);
                }
                // Created and removed around the creation, container by container.
                Step::HoldSlot { .. } | Step::FreeSlot => {}
                Step::Create { page, levels, .. } => {
                    let range = self.create_in(state, plan, holder, gone)?;
                    let comes_back = state.windows.default == DefaultWindow::Gone
                        && state.facts.is_some_and(|facts| facts.platform == Platform::Pseries)
                        && state.facts.and_then(|facts| facts.default).is_some_and(|old| old.start() == range.start());
                    let origin = if comes_back { Origin::Default } else { origin };
                    let window = Window { range, page, levels, origin };
                    state.windows.insert(window);
                    return Ok(Some(window));
                }
            }
        }
        // Nothing to create: the plan names a window that exists.
        let existing = |window: &&Window| Some(window.range.start()) == plan.window.start;
        Ok(state.windows.iter().find(existing).copied())
    }

    /// Creates in every container, or in none, at the same place.
    fn create_in(
        &self,
        state: &mut State,
        plan: &Plan,
        holder: Option<Holder>,
        gone: Vec<Iova>,
    ) -> Result<IovaRange, WindowError> {
        let facts = state.facts.ok_or(WindowError::NoGroup)?;
        let mut expected = plan.window.start;
        let mut created = None;
        for done in 0..state.containers.len() {
            let created_at = |start| IovaRange::new(start, plan.window.size).ok();
            let fits = |start| expected.is_none_or(|there| there == start) && created_at(start).is_some();
            match self.create_one(&facts, &mut state.containers[done], &plan.window, holder) {
                Ok(start) if fits(start) => (expected, created) = (Some(start), created_at(start)),
                Ok(start) => {
                    self.undo(&mut state.containers[done..=done], start);
                    expected.into_iter().for_each(|start| self.undo(&mut state.containers[..done], start));
                    // CREATE created the pending default window first.
                    mark_default_live(state);
                    let expected = expected.unwrap_or(plan.window.expected_start());
                    return Err(WindowError::Elsewhere { start, expected });
                }
                Err(error) => {
                    expected.into_iter().for_each(|start| self.undo(&mut state.containers[..done], start));
                    // The kernel created the pending default window first, unless that is what
                    // failed. Recording it as live does no harm: the next call in it creates it.
                    mark_default_live(state);
                    return Err(WindowError::Call { error, gone });
                }
            }
        }
        // CREATE created the pending default window first.
        mark_default_live(state);
        created.ok_or(WindowError::NoGroup)
    }

    pub(super) fn remove_in(&self, state: &mut State, start: Iova) -> Result<(), WindowError> {
        let there = state.windows.iter().find(|window| window.range.start() == start).copied();
        let default = there.is_none_or(|window| window.origin == Origin::Default);
        for container in &mut state.containers {
            // A pending default window is cancelled by address 0, wherever it would start.
            let named = if default && container.default_pending { Iova(0) } else { start };
            calls::tce_remove(self.host(), container.fd(), named).map_err(WindowError::call)?;
            container.default_pending &= !default;
        }
        match there {
            Some(window) => drop(state.windows.remove(window.range)),
            None => state.windows.default = DefaultWindow::Gone,
        }
        self.update_promise(state);
        Ok(())
    }

    /// Makes the kernel create the default window wherever it is pending, by an UNMAP of one page
    /// in it. If the first MAP created it, its failure could have come before or after the
    /// creation.
    ///
    /// The containers must have registered memory, without which they accept no UNMAP, and the
    /// caller keeps others from charging memory.
    fn create_default(&self, state: &mut State) -> Result<(), WindowError> {
        let Some(facts) = state.facts else { return Ok(()) };
        let Some(window) = default_window(state) else { return Ok(()) };
        // The kernel decides about a window that has no whole page.
        let page = window.range.prefix(window.page.bytes()).unwrap_or(window.range);
        let table = Planned { start: None, size: window.range.len(), page: window.page, levels: 1 };
        for container in state.containers.iter_mut().filter(|container| container.default_pending) {
            calls::unmap_dma(self.host(), container.fd(), page).map_err(|error| {
                self.remember(&facts, container, &table, &error);
                WindowError::call(error)
            })?;
            container.default_pending = false;
        }
        mark_default_live(state);
        self.update_promise(state);
        Ok(())
    }

    /// Creates the default window in containers that joined after it was created, once something is
    /// mapped in it.
    pub(super) fn create_default_everywhere(&self, state: &mut State) -> Result<(), WindowError> {
        let _charging = self.0.registry.charging();
        let input = self.plan_input(state, None)?;
        input.check_budget(input.default_window_cost())?;
        self.check_default(state)?;
        self.create_default(state)
    }

    /// Creates the space's windows in a container that joins, slot by slot. Until the returned
    /// guard is dropped, nobody else charges memory: the first MAP creates the default window.
    pub(super) fn replicate_windows(
        &self,
        state: &State,
        container: &mut Container,
    ) -> Result<Charging<'_>, WindowError> {
        let Some(facts) = state.facts else { return Err(WindowError::NoGroup) };
        let mut dynamic: Vec<_> = state.windows.iter().filter(|window| window.origin != Origin::Default).collect();
        dynamic.sort_by_key(|window| window.range.start());
        let removed = state.windows.default == DefaultWindow::Gone && facts.default.is_some();
        let drop_default = |container: &mut Container| {
            container.default_pending = false;
            calls::tce_remove(self.host(), container.fd(), Iova(0)).map_err(WindowError::call)
        };
        // The lowest free slot decides where a window starts. On pseries a default window to be
        // removed keeps the first slot until the second is filled, unless the firmware grants only
        // one window.
        let pseries = facts.platform == Platform::Pseries;
        let last = pseries && facts.windows.is_some_and(|granted| granted >= 2) && !dynamic.is_empty();
        let high = removed && dynamic.first().is_some_and(|window| window.range.start().0 != 0);
        let holder = facts.holder().filter(|_| high);
        let table = |window: &Window| locked_bytes(&facts, window.page, window.range.len(), window.levels);
        let default = default_window(state).filter(|_| !removed || last);
        let held = holder.map_or(0, |holder| holder.locked_bytes);
        let locked = dynamic.iter().map(|window| table(window)).chain(default.iter().map(table)).sum::<u64>() + held;
        let charging = self.0.registry.charging();
        let input = self.plan_input(state, None)?;
        // The pending default windows of other containers stay affordable.
        input.check_budget(locked.saturating_add(input.default_window_cost()))?;
        {
            let refused = self.refused_windows();
            let windows = dynamic.iter().copied().chain(default.as_ref());
            for (window, group) in windows.flat_map(|window| container.groups.iter().map(move |group| (window, group)))
            {
                refused.check(group.number, window.page, window.range.len())?;
            }
        }
        if removed && !last {
            drop_default(container)?;
        }
        // A live default window is created by the first call that needs it.
        for window in dynamic {
            let Window { range, page, levels, .. } = *window;
            let planned = Planned { start: Some(range.start()), size: range.len(), page, levels };
            let start = self.create_one(&facts, container, &planned, holder).map_err(WindowError::call)?;
            if start != range.start() {
                return Err(WindowError::Elsewhere { start, expected: range.start() });
            }
        }
        if removed && last {
            drop_default(container)?;
        }
        Ok(charging)
    }
}

/// Returns the range of the window that starts at `start`.
fn window_at(state: &State, start: Iova) -> Result<IovaRange, PlanError> {
    let mut ranges = state.windows.iter().map(|window| window.range);
    let windows = || state.windows.iter().copied().collect();
    ranges.find(|range| range.start() == start).ok_or_else(|| PlanError::NoSuchWindow { start, windows: windows() })
}

/// Checks that a created window holds the requested range: firmware may have placed it elsewhere.
fn check_covers(window: &Window, request: &WindowRequest) -> Result<(), WindowError> {
    match request.want {
        Want::Cover(range) if !window.range.contains_range(&range) => {
            Err(WindowError::Elsewhere { start: window.range.start(), expected: range.start() })
        }
        _ => Ok(()),
    }
}

/// Records the pending default window as live.
fn mark_default_live(state: &mut State) {
    if state.windows.default == DefaultWindow::Pending {
        default_window(state).into_iter().for_each(|window| state.windows.insert(window));
    }
}

/// Returns the default window as it is or will be.
fn default_window(state: &State) -> Option<Window> {
    let range = state.facts.and_then(|facts| facts.default)?;
    Some(Window { range, page: DEFAULT_PAGE, levels: 1, origin: Origin::Default })
}

/// Extends `range` over earlier reservations that the same window would hold.
pub(super) fn with_reserved(state: &State, range: IovaRange) -> IovaRange {
    let default = state.facts.and_then(|facts| facts.default);
    let low = |start: u64| default.is_some_and(|default| default.contains(Iova(start)));
    if low(range.start().0) {
        return range;
    }
    let side = |start: u64| (low(start), state.facts.is_some_and(|facts| facts.is_high(Iova(start))));
    let same_window = |reserved: &IovaRange| side(reserved.start().0) == side(range.start().0);
    let reserved = state.reserved.iter().filter_map(IovaRange::from_raw).filter(same_window);
    reserved.fold(range, |hull, reserved| hull.hull(&reserved))
}
