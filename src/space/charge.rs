//! Locked memory of a space's windows: looked at and charged in one step, and promised while the
//! default window waits.

use super::container::Container;
use super::{AddressSpace, State, WindowError};
use crate::addr::{Iova, PageShift};
use crate::host::calls::{self, CallError, Failure};
use crate::host::{Errno, Platform};
use crate::registry::Charging;
use crate::window::{DEFAULT_PAGE, DefaultWindow, Holder, Plan, Planned, RefusedWindows, WindowFacts, locked_bytes};
use parking_lot::MutexGuard;

impl AddressSpace {
    /// Locks for what a plan is charged with, if it may be: others may have locked memory since it
    /// was made.
    pub(super) fn charging_for(&self, state: &State, plan: &Plan) -> Result<Charging<'_>, WindowError> {
        let charging = self.0.registry.charging();
        self.plan_input(state, None)?.check_plan_budget(plan)?;
        Ok(charging)
    }

    /// Bytes that the default windows of other spaces will lock.
    pub(super) fn promised_by_others(&self) -> u64 {
        self.0.registry.promised().saturating_sub(self.0.promise.get())
    }

    /// Promises what the default window will be charged with where it waits, while something is
    /// asked of it.
    pub(super) fn settle(&self, state: &State) {
        let default =
            state.facts.and_then(|facts| facts.default).filter(|_| state.windows.default != DefaultWindow::Gone);
        let asked = default.is_some_and(|range| state.reserved.overlaps(&(range.start().0..range.end().0)));
        let waits = state.containers.iter().filter(|container| container.default_waits).count() as u64;
        let one = state.facts.as_ref().map_or(0, default_charge);
        self.0.promise.set(if asked { one.saturating_mul(waits) } else { 0 });
    }

    /// What the kernel refused to create, without what it may be asked again since there is more
    /// memory now.
    pub(super) fn refused_windows(&self) -> MutexGuard<'_, RefusedWindows> {
        let available = self.host().available_memory();
        let mut refused = self.0.registry.refused_windows();
        refused.forget_short(available);
        refused
    }

    /// Creates in one container. What the kernel refuses is remembered for its groups: each try
    /// leaks the table's charge.
    pub(super) fn create_one(
        &self,
        facts: &WindowFacts,
        container: &mut Container,
        window: &Planned,
        holder: Option<Holder>,
    ) -> Result<Iova, CallError> {
        while let Some(start) = container.strays.pop() {
            self.take_back(container, start)?;
        }
        let Some(Holder { page, size, .. }) = holder else {
            return self.create_table(facts, container, window.page, window.size, window.levels);
        };
        let held = self.create_table(facts, container, page, size, 1)?;
        let made = self.create_table(facts, container, window.page, window.size, window.levels);
        match self.take_back(container, held) {
            Ok(()) => made,
            Err(error) => {
                if let Ok(start) = made {
                    self.undo(std::slice::from_mut(container), start);
                }
                // Once more, lest it is there until the next creation.
                container.strays.retain(|stray| *stray != held);
                self.undo(std::slice::from_mut(container), held);
                Err(error)
            }
        }
    }

    /// Removes a window that was just made from each container. Where the kernel does not, that is
    /// done before the next creation.
    pub(super) fn undo(&self, containers: &mut [Container], start: Iova) {
        for container in containers {
            if let Err(error) = self.take_back(container, start) {
                tracing::warn!(%error, "a window stays in one container for now");
            }
        }
    }

    fn take_back(&self, container: &mut Container, start: Iova) -> Result<(), CallError> {
        calls::tce_remove(self.host(), container.fd(), start).inspect_err(|_| container.strays.push(start))
    }

    fn create_table(
        &self,
        facts: &WindowFacts,
        container: &mut Container,
        page: PageShift,
        size: u64,
        levels: u32,
    ) -> Result<Iova, CallError> {
        let result = calls::tce_create(self.host(), container.fd(), page, size, levels);
        match &result {
            // CREATE makes the waiting default window first.
            Ok(_) => container.default_waits = false,
            Err(error) => self.remember(facts, container, &Planned { start: None, size, page, levels }, error),
        }
        result
    }

    /// Remembers that the kernel refused a window.
    pub(super) fn remember(&self, facts: &WindowFacts, container: &Container, window: &Planned, error: &CallError) {
        let Planned { size, page, levels, .. } = *window;
        let poisons = error.failure == Failure::Errno(Errno::ENODEV);
        let mut until = None;
        if error.failure == Failure::Errno(Errno::ENOMEM) {
            let table = locked_bytes(facts, page, size, levels);
            let first = if container.default_waits { default_charge(facts) } else { 0 };
            // The limit refuses before anything is charged, so nothing is lost when the window is
            // asked for again.
            if self.host().memlock().is_ok_and(|memlock| memlock.missing(table.saturating_add(first)) != 0) {
                return;
            }
            // A pseries kernel that had no memory may have given the PE up.
            let available = self.host().available_memory().filter(|_| facts.platform == Platform::Powernv);
            until = available.map(|available| available.saturating_add(table));
        }
        let mut refused = self.0.registry.refused_windows();
        for group in &container.groups {
            match until {
                Some(until) => refused.remember_short(group.number, page, size, until),
                None => refused.remember(group.number, page, size, poisons),
            }
        }
    }
}

/// What the default window is charged with in one container.
pub(super) fn default_charge(facts: &WindowFacts) -> u64 {
    facts.default.map_or(0, |range| locked_bytes(facts, DEFAULT_PAGE, range.len(), 1))
}
