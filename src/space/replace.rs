//! A window in the place of another, with what is mapped there.

use super::{AddressSpace, State, WindowError};
use crate::addr::{Iova, IovaRange};
use crate::window::{Origin, Plan, PlanError, Window, WindowRequest};

impl AddressSpace {
    /// Checks that [`Self::replace_window`] could be carried out now. Asks nothing of the kernel.
    pub fn can_replace_window(&self, start: Iova, request: &WindowRequest) -> Result<(), WindowError> {
        let state = &self.0.state.lock().state;
        self.plan_without(state, start, request).map(drop)
    }

    /// Removes the window that starts at `start`, with all that is mapped in it, and then makes
    /// another.
    ///
    /// Refused with nothing changed where the other cannot be had or afforded; what the first gives
    /// back is counted in. Should the kernel refuse it all the same, the first is gone.
    pub fn replace_window(&self, start: Iova, request: &WindowRequest) -> Result<Window, WindowError> {
        let state = &mut self.0.state.lock().state;
        let charging = self.0.registry.charging();
        let (range, plan) = self.plan_without(state, start, request)?;
        let gone = self.discard_in(state, range)?;
        let made = self.carry_out_charged(state, &plan, Origin::Requested).map_err(|error| match error {
            WindowError::Call { error, mut gone } => {
                gone.insert(0, start);
                WindowError::Call { error, gone }
            }
            other => other,
        });
        // Giving memory back may have to register a part of it again, and charges that.
        drop(charging);
        self.0.registry.unpin(gone.iter().map(|mapping| (mapping.region, mapping.iova.len())));
        made?.ok_or(WindowError::NoGroup)
    }

    /// The window that starts at `start`, and the plan of another once that is gone.
    fn plan_without(
        &self,
        state: &State,
        start: Iova,
        request: &WindowRequest,
    ) -> Result<(IovaRange, Plan), WindowError> {
        let input = self.plan_input(state, None)?;
        let windows = || state.windows.iter().copied().collect();
        let range = state.windows.iter().map(|window| window.range).find(|range| range.start() == start);
        let range = range.ok_or_else(|| PlanError::NoSuchWindow { start, windows: windows() })?;
        Ok((range, self.plan_in(state, &input.without(start), request)?))
    }
}
