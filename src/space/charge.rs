//! Creates tables in one container, and accounts for their locked memory: checked and charged in
//! one step, and promised while the default window is pending.

use super::groups::Container;
use super::{AddressSpace, State, WindowError};
use crate::addr::{Iova, PageShift};
use crate::host::calls::{self, CallError, Failure};
use crate::host::{Errno, Platform};
use crate::registry::Charging;
use crate::window::{DEFAULT_PAGE, DefaultWindow, Holder, Plan, Planned, RefusedWindows, WindowFacts, locked_bytes};
use parking_lot::MutexGuard;

impl AddressSpace {
    /// Takes the lock to charge a plan, if the limit allows it: others may have locked memory since
    /// it was made.
    pub(super) fn charging_for(&self, state: &State, plan: &Plan) -> Result<Charging<'_>, WindowError> {
        let charging = self.0.registry.charging();
        self.plan_input(state, None)?.check_plan_budget(plan)?;
        Ok(charging)
    }

    /// Returns the bytes that pending default windows of other spaces will lock.
    pub(super) fn promised_by_others(&self) -> u64 {
        self.0.registry.promised().saturating_sub(self.0.promise.get())
    }

    /// Promises the charge of the default window where it is pending, while something is reserved
    /// in it.
    pub(super) fn update_promise(&self, state: &State) {
        let default =
            state.facts.and_then(|facts| facts.default).filter(|_| state.windows.default != DefaultWindow::Gone);
        let reserved = default.is_some_and(|range| state.reserved.overlaps(&range.raw()));
        let pending = state.containers.iter().filter(|container| container.default_pending).count() as u64;
        let one = state.facts.as_ref().map_or(0, default_charge);
        self.0.promise.set(if reserved { one.saturating_mul(pending) } else { 0 });
    }

    /// Returns the windows the kernel refused, without those that now have enough memory.
    pub(super) fn refused_windows(&self) -> MutexGuard<'_, RefusedWindows> {
        let available = self.host().available_memory();
        let mut refused = self.0.registry.refused_windows();
        refused.retry_with(available);
        refused
    }

    /// Creates a window in one container. Refusals are remembered for its groups, since each try
    /// leaks the table's charge.
    pub(super) fn create_one(
        &self,
        facts: &WindowFacts,
        container: &mut Container,
        window: &Planned,
        holder: Option<Holder>,
    ) -> Result<Iova, CallError> {
        while let Some(start) = container.leftover_windows.pop() {
            self.remove_table(container, start)?;
        }
        let Some(Holder { page, size, .. }) = holder else {
            return self.create_table(facts, container, window.page, window.size, window.levels);
        };
        let held = self.create_table(facts, container, page, size, 1)?;
        let created = self.create_table(facts, container, window.page, window.size, window.levels);
        match self.remove_table(container, held) {
            Ok(()) => created,
            Err(error) => {
                if let Ok(start) = created {
                    self.undo(std::slice::from_mut(container), start);
                }
                // Try once more, or it stays until the next creation.
                container.leftover_windows.retain(|start| *start != held);
                self.undo(std::slice::from_mut(container), held);
                Err(error)
            }
        }
    }

    /// Removes a window just created from each container. If the kernel refuses, the removal is
    /// retried before the next creation.
    pub(super) fn undo(&self, containers: &mut [Container], start: Iova) {
        for container in containers {
            if let Err(error) = self.remove_table(container, start) {
                tracing::warn!(%error, "a window stays in one container until the next creation");
            }
        }
    }

    fn remove_table(&self, container: &mut Container, start: Iova) -> Result<(), CallError> {
        calls::tce_remove(self.host(), container.fd(), start).inspect_err(|_| container.leftover_windows.push(start))
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
            // CREATE creates the pending default window first.
            Ok(_) => container.default_pending = false,
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
            let first = if container.default_pending { default_charge(facts) } else { 0 };
            // The limit refuses before anything is charged, so requesting the window again loses
            // nothing.
            if self.host().memlock().is_ok_and(|memlock| memlock.missing(table.saturating_add(first)) != 0) {
                return;
            }
            // A pseries kernel without memory may have disabled the PE.
            let available = self.host().available_memory().filter(|_| facts.platform == Platform::Powernv);
            until = available.map(|available| available.saturating_add(table));
        }
        let mut refused = self.0.registry.refused_windows();
        for group in &container.groups {
            match until {
                Some(until) => refused.remember_no_memory(group.number, page, size, until),
                None => refused.remember(group.number, page, size, poisons),
            }
        }
    }
}

/// Returns the charge of the default window in one container.
pub(super) fn default_charge(facts: &WindowFacts) -> u64 {
    facts.default.map_or(0, |range| locked_bytes(facts, DEFAULT_PAGE, range.len(), 1))
}
