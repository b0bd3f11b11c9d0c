//! Address spaces whose tables KVM fills itself: accounts for mappings the library did not make.

use super::maps::Checked;
use super::{AddressSpace, Locked, MapError, MapRequest, Overlap, State, WindowError};
use crate::addr::{Iova, IovaRange, PageShift, UserRange};
use crate::map::Mapping;
use crate::registry::RegionId;
use crate::window::{DefaultWindow, PlanError};

/// Memory that KVM may map, with the parts of regions pinned for it.
#[derive(Debug, Default)]
pub(super) struct KvmPins(Vec<(UserRange, Vec<(RegionId, u64)>)>);

impl KvmPins {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over the pinned parts.
    pub(super) fn parts(&self) -> impl Iterator<Item = (RegionId, u64)> + '_ {
        self.0.iter().flat_map(|(_, parts)| parts).copied()
    }
}

impl AddressSpace {
    /// Pins leased `memory` so that KVM may map any of it until [`Self::unpin_for_kvm`] or until
    /// the last group leaves. It stays registered, in every container. The default window is
    /// created, since KVM attaches tables to existing windows only; and containers are closed
    /// without an UNREGISTER, which would lose what is mapped.
    ///
    /// Must be called again after a group was attached or memory added. [`Self::sync_from_kvm`]
    /// tells the space what KVM mapped.
    pub fn pin_for_kvm(&self, memory: &[UserRange]) -> Result<(), MapError> {
        let Locked { state, scratch } = &mut *self.0.state.lock();
        let pages = |range: &UserRange| (*range, PageShift::P4K);
        for range in memory {
            let parts = &mut scratch.parts;
            self.0.registry.pin(std::iter::once(pages(range)), &state.container_files, parts)?;
            let parts = || parts.iter().map(|part| (part.region, part.user.len()));
            match state.kvm_pins.0.iter().any(|(held, _)| held == range) {
                // Pinned only to register it where it was not yet registered.
                true => self.0.registry.unpin(parts()),
                false => state.kvm_pins.0.push((*range, parts().collect())),
            }
        }
        match memory.is_empty() || state.windows.default == DefaultWindow::Gone {
            true => Ok(()),
            false => Ok(self.make_default_everywhere(state)?),
        }
    }

    /// Unpins `memory` that was [pinned](Self::pin_for_kvm). KVM must no longer map it, and its mappings
    /// must be gone or [synced](Self::sync_from_kvm).
    pub fn unpin_for_kvm(&self, memory: UserRange) {
        let state = &mut self.0.state.lock().state;
        let gone = state.kvm_pins.0.extract_if(.., |(held, _)| *held == memory);
        let parts: Vec<_> = gone.flat_map(|(_, parts)| parts).collect();
        self.0.registry.unpin(parts.into_iter());
    }

    /// Sets the mappings in `range` to `found` and nothing else, as KVM made them, without a kernel
    /// call. From then on its memory is not released, and an unmap reaches all of it.
    ///
    /// # Safety
    /// The kernel maps just that in `range`. Memory of a mapping that is missing would be given
    /// back while devices still reach it.
    #[allow(unsafe_code, reason = "what is mapped is the caller's word")]
    pub unsafe fn sync_from_kvm(&self, range: IovaRange, found: &[MapRequest]) -> Result<(), MapError> {
        self.record_from_kvm(range, found)
    }

    /// [`Self::sync_from_kvm`], for a guest's tables that were read from the kernel.
    pub(crate) fn record_from_kvm(&self, range: IovaRange, found: &[MapRequest]) -> Result<(), MapError> {
        let Locked { state, scratch } = &mut *self.0.state.lock();
        if found.is_empty() {
            scratch.requests.clear();
            scratch.parts.clear();
        } else {
            self.check(state, found, Overlap::Replace, scratch)?;
            if let Some(&Checked { request, .. }) = scratch.requests.iter().find(|checked| checked.page.is_none()) {
                let windows = state.windows.iter().copied().collect();
                let why = PlanError::NoSuchWindow { start: request.iova.start(), windows };
                return Err(MapError::NoWindow { asked: request.iova, why });
            }
            let wanted = scratch.requests.iter().filter_map(|checked| Some((checked.user, checked.page?)));
            self.0.registry.pin(wanted, &state.container_files, &mut scratch.parts)?;
        }
        scratch.displaced.clear();
        scratch.displaced.extend(self.0.mappings.read().overlapping(range));
        self.commit(scratch);
        Ok(())
    }

    /// Removes the window that starts at `start` with everything mapped in it, by the library or by
    /// KVM: the kernel clears its table. Ranges reserved in it are dropped.
    pub fn discard_window(&self, start: Iova) -> Result<(), WindowError> {
        let state = &mut self.0.state.lock().state;
        let facts = state.facts.ok_or(WindowError::NoGroup)?;
        let live = state.windows.iter().map(|window| window.range).find(|range| range.start() == start);
        let waits = state.windows.default == DefaultWindow::Pending;
        let default = facts.default.filter(|range| waits && range.start() == start);
        let windows = || state.windows.iter().copied().collect();
        let range = live.or(default).ok_or_else(|| PlanError::NoSuchWindow { start, windows: windows() })?;
        let gone = self.discard_in(state, range)?;
        self.0.registry.unpin(gone.iter().map(|mapping| (mapping.region, mapping.iova.len())));
        Ok(())
    }

    /// Removes the window with just that range, and forgets what was mapped in it, which is still
    /// pinned, and asked of it.
    pub(super) fn discard_in(
        &self,
        state: &mut State,
        range: IovaRange,
    ) -> Result<Vec<Mapping<RegionId>>, WindowError> {
        self.remove_in(state, range.start())?;
        state.reserved.remove(range.start().0..range.end().0);
        self.settle(state);
        let mut gone = Vec::new();
        gone.extend(self.0.mappings.read().overlapping(range));
        self.0.mappings.write().remove(range, |_| {});
        Ok(gone)
    }
}
