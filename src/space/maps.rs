//! Maps and unmaps bus addresses.

use super::apply::{self, ApplyError, Run};
use super::stale;
use super::{AddressSpace, Locked, MapError, NotRestored, State, UnmapError};
use crate::addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
use crate::map::Mapping;
use crate::permission::Permission;
use crate::registry::{Part, RegionId};
use crate::window::DefaultWindow;

/// A request to map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// Bus addresses, whole IOMMU pages of one window.
    pub iova: IovaRange,
    /// The user address the first of them points to, aligned to an IOMMU page. The memory must be
    /// leased.
    pub user: UserAddr,
    /// What devices may do with the memory.
    pub permission: Permission,
}

/// How to treat mappings that are in the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overlap {
    /// Refuse the request.
    #[default]
    Refuse,
    /// Replace them: afterwards the bus addresses of the request lead to the new memory, and at no
    /// moment do they lead nowhere.
    Replace,
}

/// A checked request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Checked {
    pub request: MapRequest,
    /// The user memory it maps.
    pub user: UserRange,
    /// The window's page; `None` until a window holds it.
    pub page: Option<PageShift>,
}

/// Buffers reused by every call.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// Requests in order of bus address.
    pub requests: Vec<Checked>,
    pub parts: Vec<Part>,
    pub runs: Vec<Run>,
    pub displaced: Vec<Mapping<RegionId>>,
}

impl AddressSpace {
    /// Maps `iova` to the leased memory at `user`. Fails if something is already mapped there.
    ///
    /// If no window holds `iova` yet, the one it needs is planned and created. Makes one MAP per
    /// container and per 256 Ki TCEs.
    pub fn map(&self, iova: IovaRange, user: UserAddr, permission: Permission) -> Result<(), MapError> {
        self.map_all(&[MapRequest { iova, user, permission }], Overlap::Refuse)
    }

    /// Maps all requests, or none. Neighbours that continue each other become one MAP.
    pub fn map_all(&self, requests: &[MapRequest], overlap: Overlap) -> Result<(), MapError> {
        if requests.is_empty() {
            return Ok(());
        }
        let Locked { state, scratch } = &mut *self.0.state.lock();
        let result = self.map_with(state, scratch, requests, overlap);
        self.0.counters.map(requests, &result);
        result
    }

    fn map_with(
        &self,
        state: &mut State,
        scratch: &mut Scratch,
        requests: &[MapRequest],
        overlap: Overlap,
    ) -> Result<(), MapError> {
        stale::clear(&self.0.registry, state);
        self.check(state, requests, overlap, scratch)?;
        let planned = self.plan_missing(state, scratch)?;
        let wanted = scratch.requests.iter().filter_map(|checked| Some((checked.user, checked.page?)));
        self.0.registry.pin(wanted, &state.container_files, &mut scratch.parts)?;
        let mut made = Vec::new();
        let late = state.windows.default == DefaultWindow::Live && state.containers.iter().any(|m| m.default_waits);
        let ready = match late {
            true => self.make_default_everywhere(state),
            false => Ok(()),
        };
        let ready = ready.and_then(|()| {
            for missing in planned {
                made.extend(self.make_missing(state, missing)?);
            }
            Ok(())
        });
        if let Err(error) = ready {
            self.unpin(scratch);
            self.remove_created(state, &made);
            return Err(error.into());
        }
        join_runs(scratch);
        state.interrupted = true;
        let applied = apply::map(self.host(), &state.container_files, &scratch.runs, &scratch.displaced);
        state.interrupted = false;
        match applied {
            Ok(()) => {
                self.commit(scratch);
                Ok(())
            }
            Err(ApplyError::Refused(error)) => {
                self.unpin(scratch);
                self.remove_created(state, &made);
                Err(MapError::Refused(error))
            }
            Err(ApplyError::NotRestored(mut error)) => {
                let left = error.left.clone();
                self.drop_lost(state, &mut error);
                self.keep_stale(state, scratch, &left);
                Err(error.into())
            }
        }
    }

    fn unpin(&self, scratch: &Scratch) {
        self.0.registry.unpin(scratch.parts.iter().map(|part| (part.region, part.user.len())));
    }

    /// Records what the kernel has mapped, and unpins what it displaced.
    pub(super) fn commit(&self, scratch: &mut Scratch) {
        {
            let mut mappings = self.0.mappings.write();
            for displaced in &scratch.displaced {
                mappings.remove(displaced.iova, |_| {});
            }
            for mapping in new_mappings(scratch) {
                let entered = mappings.insert(mapping);
                debug_assert!(entered.is_ok(), "checked before, and the state is locked");
            }
        }
        if !scratch.displaced.is_empty() {
            self.0.registry.unpin(scratch.displaced.iter().map(|mapping| (mapping.region, mapping.iova.len())));
        }
    }

    /// Records lost mappings as unmapped and removes them from containers that still hold them.
    /// What cannot be removed is added to the error.
    pub(super) fn drop_lost(&self, state: &mut State, error: &mut NotRestored) {
        for &range in &error.lost {
            let stale = &mut state.stale;
            self.0.mappings.write().remove(range, |mapping| stale.insert(mapping));
        }
        stale::clear(&self.0.registry, state);
        let stays = error.lost.iter().filter_map(|&lost| Some(state.stale.first_overlap(lost)?.iova));
        error.leaves(stays.collect::<Vec<_>>());
    }

    /// Keeps the reachable part of a failed map pinned; unpins the rest.
    fn keep_stale(&self, state: &mut State, scratch: &Scratch, left: &[IovaRange]) {
        let mappings = self.0.mappings.read();
        for mapping in new_mappings(scratch) {
            let mut rest = mapping.iova.len();
            for part in left.iter().filter_map(|&range| mapping.clip(range)) {
                // Restored mappings there are correct, and recorded.
                for stray in mappings.gaps(part.iova).filter_map(|gap| part.clip(gap)) {
                    state.stale.insert(stray);
                    rest -= stray.iova.len();
                }
            }
            self.0.registry.unpin([(mapping.region, rest)].into_iter());
        }
    }

    /// Unmaps everything in `range`, which must be whole IOMMU pages of one window: part of a
    /// mapping, or several mappings. Returns the number of bytes that were mapped.
    pub fn unmap(&self, range: IovaRange) -> Result<u64, UnmapError> {
        let result = self.unmap_range(range);
        self.0.counters.unmap(&result);
        result
    }

    fn unmap_range(&self, range: IovaRange) -> Result<u64, UnmapError> {
        let Locked { state, scratch } = &mut *self.0.state.lock();
        stale::clear(&self.0.registry, state);
        let Some(window) = state.windows.containing(range) else {
            return Err(UnmapError::NoWindow { asked: range });
        };
        let page = window.page;
        if !range.is_aligned(page) {
            return Err(UnmapError::Misaligned { asked: range, page });
        }
        let gone = &mut scratch.displaced;
        gone.clear();
        gone.extend(self.0.mappings.read().overlapping(range));
        state.interrupted = true;
        let applied = apply::unmap(self.host(), &state.container_files, gone, page);
        state.interrupted = false;
        match applied {
            Ok(()) => {
                self.0.mappings.write().remove(range, |_| {});
                self.0.registry.unpin(gone.iter().map(|mapping| (mapping.region, mapping.iova.len())));
                Ok(gone.iter().map(|mapping| mapping.iova.len()).sum())
            }
            Err(ApplyError::Refused(error)) => Err(UnmapError::Refused(error)),
            Err(ApplyError::NotRestored(mut error)) => {
                self.drop_lost(state, &mut error);
                Err(error.into())
            }
        }
    }
}

/// Iterates over the mappings that requests and the parts pinned for them make, in order.
fn new_mappings(scratch: &Scratch) -> impl Iterator<Item = Mapping<RegionId>> + '_ {
    let mut requests = scratch.requests.iter().map(|checked| checked.request);
    let mut current: Option<(MapRequest, Iova)> = None;
    scratch.parts.iter().filter_map(move |part| {
        let (request, at) =
            current.take().or_else(|| requests.next().map(|request| (request, request.iova.start())))?;
        let iova = IovaRange::new(at, part.user.len()).ok()?;
        current = (iova.end() < request.iova.end()).then_some((request, iova.end()));
        Some(Mapping { iova, user: part.user.start(), permission: request.permission, region: part.region })
    })
}

/// Joins the requests, which are in order, to runs.
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
