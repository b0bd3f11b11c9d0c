//! Mapping and unmapping.

use super::apply::{self, ApplyError, Run};
use super::{AddressSpace, Locked, MapError, NotRestored, State, UnmapError};
use crate::addr::{IovaRange, PageShift, UserAddr, UserRange};
use crate::map::Mapping;
use crate::permission::Permission;
use crate::registry::{Part, RegionId};

/// What to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// Bus addresses, whole IOMMU pages of one window.
    pub iova: IovaRange,
    /// The user address the first of them points to, at an IOMMU page. The memory behind it is leased.
    pub user: UserAddr,
    /// What devices may do.
    pub permission: Permission,
}

/// What to do with mappings that are in the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// Refuse the request.
    #[default]
    Refuse,
    /// Replace them: bus addresses of the request lead to the new memory afterwards, with no moment in which they lead
    /// nowhere.
    Replace,
}

/// A request that was checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checked {
    pub request: MapRequest,
    /// The memory behind it.
    pub user: UserRange,
    /// The window's page; `None` while no window holds it.
    pub page: Option<PageShift>,
}

/// Buffers that are used again by every call.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// In order of bus address.
    pub requests: Vec<Checked>,
    pub parts: Vec<Part>,
    pub runs: Vec<Run>,
    pub displaced: Vec<Mapping<RegionId>>,
}

impl AddressSpace {
    /// Maps `iova` to the leased memory at `user`. Refuses where something is mapped already.
    ///
    /// Where no window holds `iova` yet, the one it needs is planned and created. Sends one MAP per container and per
    /// 256 Ki TCEs.
    pub fn map(&self, iova: IovaRange, user: UserAddr, permission: Permission) -> Result<(), MapError> {
        self.map_all(&[MapRequest { iova, user, permission }], Overlap::Refuse)
    }

    /// Maps all requests, or none. Neighbours that continue each other go out as one MAP.
    pub fn map_all(&self, requests: &[MapRequest], overlap: Overlap) -> Result<(), MapError> {
        let Locked { state, scratch } = &mut *self.0.state.lock();
        self.map_with(state, scratch, requests, overlap)
    }

    fn map_with(
        &self,
        state: &mut State,
        scratch: &mut Scratch,
        requests: &[MapRequest],
        overlap: Overlap,
    ) -> Result<(), MapError> {
        self.check(state, requests, overlap, scratch)?;
        let planned = self.plan_missing(state, scratch)?;
        let wanted = scratch.requests.iter().filter_map(|checked| Some((checked.user, checked.page?)));
        self.0.registry.pin(wanted, &state.containers, &mut scratch.parts)?;
        let made = match self.make_missing(state, planned) {
            Ok(made) => made,
            Err(error) => {
                self.unpin(scratch);
                return Err(error.into());
            }
        };
        join_runs(scratch);
        match apply::map(self.host(), &state.containers, &scratch.runs, &scratch.displaced) {
            Ok(()) => {
                self.enter(scratch);
                Ok(())
            }
            Err(ApplyError::Refused(error)) => {
                self.unpin(scratch);
                self.unmake(state, made);
                Err(MapError::Refused(error))
            }
            Err(ApplyError::NotRestored(error)) => {
                // Where the device may still reach the new memory, it stays pinned.
                if error.left.is_empty() {
                    self.unpin(scratch);
                }
                self.forget(state, &error);
                Err(error.into())
            }
        }
    }

    fn unpin(&self, scratch: &Scratch) {
        self.0.registry.unpin(scratch.parts.iter().map(|part| (part.region, part.user.len())));
    }

    /// Books what the kernel has mapped, and counts out what it displaced.
    fn enter(&self, scratch: &mut Scratch) {
        {
            let mut books = self.0.books.write();
            for displaced in &scratch.displaced {
                books.remove(displaced.iova, |_| {});
            }
            let mut parts = scratch.parts.iter();
            for Checked { request, .. } in &scratch.requests {
                let mut at = request.iova.start();
                while let Some(rest) = IovaRange::between(at, request.iova.end()) {
                    let Some(part) = parts.next() else { break };
                    let Ok(iova) = IovaRange::new(at, part.user.len().min(rest.len())) else { break };
                    let mapping =
                        Mapping { iova, user: part.user.start(), permission: request.permission, region: part.region };
                    let entered = books.insert(mapping);
                    debug_assert!(entered.is_ok(), "checked before, and the state is locked");
                    at = iova.end();
                }
            }
        }
        if !scratch.displaced.is_empty() {
            self.0.registry.unpin(scratch.displaced.iter().map(|mapping| (mapping.region, mapping.iova.len())));
        }
    }

    /// Books what could not be put back as not mapped.
    fn forget(&self, state: &mut State, error: &NotRestored) {
        state.astray |= !error.left.is_empty();
        for &range in &error.lost {
            let Some(page) = state.windows.containing(range).map(|window| window.page) else { continue };
            let mut gone = Vec::new();
            self.0.books.write().remove(range, |mapping| gone.push(mapping));
            let clears = |container| apply::clear(self.host(), container, &gone, page).is_ok();
            if state.containers.iter().all(|&container| clears(container)) {
                self.0.registry.unpin(gone.iter().map(|mapping| (mapping.region, mapping.iova.len())));
            }
        }
    }

    /// Unmaps whatever is mapped in `range`, which is whole IOMMU pages of one window but otherwise free: a part of a
    /// mapping, or several. Returns the bytes that were mapped.
    pub fn unmap(&self, range: IovaRange) -> Result<u64, UnmapError> {
        let Locked { state, scratch } = &mut *self.0.state.lock();
        let Some(window) = state.windows.containing(range) else {
            return Err(UnmapError::NoWindow { asked: range });
        };
        let page = window.page;
        if !range.is_aligned(page) {
            return Err(UnmapError::Misaligned { asked: range, page });
        }
        let gone = &mut scratch.displaced;
        gone.clear();
        gone.extend(self.0.books.read().overlapping(range));
        match apply::unmap(self.host(), &state.containers, gone, page) {
            Ok(()) => {
                self.0.books.write().remove(range, |_| {});
                self.0.registry.unpin(gone.iter().map(|mapping| (mapping.region, mapping.iova.len())));
                Ok(gone.iter().map(|mapping| mapping.iova.len()).sum())
            }
            Err(ApplyError::Refused(error)) => Err(UnmapError::Refused(error)),
            Err(ApplyError::NotRestored(error)) => {
                self.forget(state, &error);
                Err(error.into())
            }
        }
    }
}

/// Makes runs of the requests, which are in order.
fn join_runs(scratch: &mut Scratch) {
    scratch.runs.clear();
    for &Checked { request, page, .. } in &scratch.requests {
        let Some(page) = page else { continue };
        let next = Run { iova: request.iova, user: request.user, permission: request.permission, page };
        match scratch.runs.last_mut() {
            Some(last) => match last.joined(&next) {
                Some(joined) => *last = joined,
                None => scratch.runs.push(next),
            },
            None => scratch.runs.push(next),
        }
    }
}
