//! Address spaces whose tables KVM fills itself: accounts for mappings the library did not make.

use super::map::Checked;
use super::{AddressSpace, Locked, MapError, MapRequest, Overlap};
use crate::addr::{IovaRange, PageShift, UserRange};
use crate::registry::RegionId;
use crate::window::{DefaultWindow, PlanError};
use parking_lot::RwLockUpgradableReadGuard;

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
    /// created, since KVM attaches tables to existing windows only. Containers are later closed
    /// without an UNREGISTER, which would lose mapped memory.
    ///
    /// Call it again after a group was attached or memory added. [`Self::sync_from_kvm`] records
    /// what KVM mapped.
    pub fn pin_for_kvm(&self, memory: &[UserRange]) -> Result<(), MapError> {
        let Locked { state, scratch } = &mut *self.0.state.lock();
        let pages = |range: &UserRange| (*range, PageShift::P4K);
        for range in memory {
            let parts = &mut scratch.parts;
            let wanted = std::iter::once(pages(range));
            self.0.registry.pin(&mut state.pinner, wanted, &state.container_files, parts)?;
            let parts = || parts.iter().map(|part| (part.region, part.user.len()));
            if state.kvm_pins.0.iter().any(|(pinned, _)| pinned == range) {
                // Pinned again only to register it in containers that lacked it.
                self.0.registry.unpin(&mut state.pinner, parts());
            } else {
                state.kvm_pins.0.push((*range, parts().collect()));
            }
        }
        if !memory.is_empty() && state.windows.default != DefaultWindow::Gone {
            self.create_default_everywhere(state)?;
        }
        Ok(())
    }

    /// Unpins `memory` that was [pinned](Self::pin_for_kvm). KVM must no longer map it, and its
    /// mappings must be gone or [synced](Self::sync_from_kvm).
    pub fn unpin_for_kvm(&self, memory: UserRange) {
        let state = &mut self.0.state.lock().state;
        let unpinned = state.kvm_pins.0.extract_if(.., |(pinned, _)| *pinned == memory);
        let parts: Vec<_> = unpinned.flat_map(|(_, parts)| parts).collect();
        self.0.registry.unpin(&mut state.pinner, parts.into_iter());
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
            self.check(state, found, Overlap::Replace, scratch, &self.0.mappings.read())?;
            if let Some(&Checked { request, .. }) = scratch.requests.iter().find(|checked| checked.page.is_none()) {
                let windows = state.windows.iter().copied().collect();
                let why = PlanError::NoSuchWindow { start: request.iova.start(), windows };
                return Err(MapError::NoWindow { asked: request.iova, why });
            }
            let wanted = scratch.requests.iter().filter_map(|checked| Some((checked.user, checked.page?)));
            self.0.registry.pin(&mut state.pinner, wanted, &state.container_files, &mut scratch.parts)?;
        }
        let mappings = self.0.mappings.upgradable_read();
        scratch.displaced.clear();
        scratch.displaced.extend(mappings.overlapping(range));
        self.commit(state, scratch, RwLockUpgradableReadGuard::upgrade(mappings));
        Ok(())
    }
}
