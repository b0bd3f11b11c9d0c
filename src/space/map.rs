//! Maps and unmaps bus addresses.
//!
//! Requests are checked first, since the kernel checks no bounds itself. Then their memory is
//! pinned, windows they lack are created, and `apply` makes the calls.

use super::apply::{self, ApplyError, Run};
use super::windows::{Missing, with_reserved};
use super::{AddressSpace, Locked, MapError, NotRestored, State, UnmapError, WindowError};
use crate::addr::{IovaRange, PageShift, UserAddr, UserRange};
use crate::map::{IntervalMap, Mapping};
use crate::permission::Permission;
use crate::registry::{Part, PinError, RegionId};
use crate::stats::{OwnCounter, RefusalCounters, Refusals};
use crate::window::{DefaultWindow, Plan, Planned, Window, WindowRequest};
use parking_lot::{RwLockUpgradableReadGuard, RwLockWriteGuard};

/// Minimum number of TCEs of a window created on demand: room for more, cheap to tear down.
const DEMAND_ENTRIES: u64 = 16 << 10;

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
    /// Replace them: the bus addresses of the request lead to the new memory afterwards, and always
    /// lead somewhere meanwhile.
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

/// Maps and unmaps since the space was created. A call with several requests counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SpaceStats {
    /// Number of successful maps.
    pub maps: u64,
    /// Bytes mapped by them.
    pub mapped: u64,
    /// Number of successful unmaps, including those of ranges without mappings.
    pub unmaps: u64,
    /// Bytes unmapped by them.
    pub unmapped: u64,
    /// Number of refused maps, by variant of [`MapError`].
    pub map_refusals: Refusals,
    /// Number of refused unmaps, by variant of [`UnmapError`].
    pub unmap_refusals: Refusals,
}

/// Changed with the state locked, and read at any time.
#[derive(Debug, Default)]
pub(super) struct Counters {
    maps: OwnCounter,
    mapped: OwnCounter,
    unmaps: OwnCounter,
    unmapped: OwnCounter,
    map_refusals: RefusalCounters,
    unmap_refusals: RefusalCounters,
}

impl Counters {
    pub(super) fn get(&self) -> SpaceStats {
        SpaceStats {
            maps: self.maps.get(),
            mapped: self.mapped.get(),
            unmaps: self.unmaps.get(),
            unmapped: self.unmapped.get(),
            map_refusals: self.map_refusals.get::<MapError>(),
            unmap_refusals: self.unmap_refusals.get::<UnmapError>(),
        }
    }

    fn map(&self, requests: &[MapRequest], result: &Result<(), MapError>) {
        match result {
            Ok(()) => {
                self.maps.add(1);
                self.mapped.add(requests.iter().map(|request| request.iova.len()).sum());
            }
            Err(error) => self.map_refusals.count(error),
        }
    }

    fn unmap(&self, result: &Result<u64, UnmapError>) {
        match result {
            Ok(bytes) => {
                self.unmaps.add(1);
                self.unmapped.add(*bytes);
            }
            Err(error) => self.unmap_refusals.count(error),
        }
    }
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
        let usual = match requests {
            [request] => self.map_one(state, scratch, request),
            _ => None,
        };
        let result = usual.unwrap_or_else(|| self.map_with(state, scratch, requests, overlap));
        self.0.counters.map(requests, &result);
        result
    }

    /// Maps a request in the usual case: a window holds it, nothing is mapped there, and its memory
    /// is pinned without a lock. Otherwise returns `None`, with nothing changed.
    #[inline]
    fn map_one(&self, state: &mut State, scratch: &mut Scratch, request: &MapRequest) -> Option<Result<(), MapError>> {
        let &MapRequest { iova, user: start, permission } = request;
        let Window { page, .. } = *state.windows.containing(iova)?;
        let user = UserRange::new(start, iova.len()).ok()?;
        aligned(request, page).ok()?;
        let blocked = state.facts.as_ref().is_some_and(|facts| facts.mmio_in(iova).is_some());
        if blocked || !state.stale.is_empty() || lacks_default(state) {
            return None;
        }
        let mappings = self.0.mappings.upgradable_read();
        let spot = mappings.free_spot(iova)?;
        let region = self.0.registry.pin_again(&mut state.pinner, user, page)?;
        let run = Run { iova, user: start, permission, page };
        state.interrupted = true;
        let applied = apply::map(self.host(), &state.container_files, &[run], &[]);
        state.interrupted = false;
        if let Err(error) = applied {
            drop(mappings);
            scratch.requests.splice(.., [Checked { request: *request, user, page: Some(page) }]);
            scratch.parts.splice(.., [Part { region, user }]);
            return Some(Err(self.map_failed(state, scratch, &[], error)));
        }
        let mapping = Mapping { iova, user: start, permission, region };
        let _ = RwLockUpgradableReadGuard::upgrade(mappings).insert_at(spot, mapping);
        Some(Ok(()))
    }

    #[inline(never)]
    fn map_with(
        &self,
        state: &mut State,
        scratch: &mut Scratch,
        requests: &[MapRequest],
        overlap: Overlap,
    ) -> Result<(), MapError> {
        apply::clear_stale(&self.0.registry, state);
        // Nobody else changes the map while the state is locked; others read it meanwhile.
        let mappings = self.0.mappings.upgradable_read();
        self.check(state, requests, overlap, scratch, &mappings)?;
        let planned = self.plan_missing(state, scratch)?;
        let wanted = scratch.requests.iter().filter_map(|checked| Some((checked.user, checked.page?)));
        self.0.registry.pin(&mut state.pinner, wanted, &state.container_files, &mut scratch.parts)?;
        let mut created = Vec::new();
        let ready = if lacks_default(state) { self.create_default_everywhere(state) } else { Ok(()) };
        let ready = ready.and_then(|()| {
            for missing in planned {
                created.extend(self.create_missing(state, missing)?);
            }
            Ok(())
        });
        if let Err(error) = ready {
            self.unpin(state, scratch);
            self.remove_created(state, &created);
            return Err(error.into());
        }
        join_runs(scratch);
        state.interrupted = true;
        let applied = apply::map(self.host(), &state.container_files, &scratch.runs, &scratch.displaced);
        state.interrupted = false;
        match applied {
            Ok(()) => {
                self.commit(state, scratch, RwLockUpgradableReadGuard::upgrade(mappings));
                Ok(())
            }
            Err(error) => {
                drop(mappings);
                Err(self.map_failed(state, scratch, &created, error))
            }
        }
    }

    /// Makes good for a failed map: unpins its memory and removes the windows created for it.
    #[cold]
    fn map_failed(&self, state: &mut State, scratch: &Scratch, created: &[IovaRange], error: ApplyError) -> MapError {
        match error {
            ApplyError::Refused(error) => {
                self.unpin(state, scratch);
                self.remove_created(state, created);
                MapError::Refused(error)
            }
            ApplyError::NotRestored(mut error) => {
                let left = error.left.clone();
                self.drop_lost(state, &mut error);
                self.keep_stale(state, scratch, &left);
                error.into()
            }
        }
    }

    fn unpin(&self, state: &mut State, scratch: &Scratch) {
        let parts = scratch.parts.iter().map(|part| (part.region, part.user.len()));
        self.0.registry.unpin(&mut state.pinner, parts);
    }

    /// Records what the kernel has mapped, and unpins what it displaced.
    pub(super) fn commit(
        &self,
        state: &mut State,
        scratch: &Scratch,
        mut mappings: RwLockWriteGuard<'_, IntervalMap<RegionId>>,
    ) {
        for displaced in &scratch.displaced {
            mappings.remove(displaced.iova, |_| {});
        }
        let mut last = None;
        for mapping in new_mappings(scratch) {
            let follows = last.and_then(|last| mappings.free_spot_after(last, mapping.iova));
            let spot = follows.or_else(|| mappings.free_spot(mapping.iova));
            debug_assert!(spot.is_some(), "checked before, and the state is locked");
            last = spot.and_then(|spot| mappings.insert_at(spot, mapping));
        }
        drop(mappings);
        if !scratch.displaced.is_empty() {
            let displaced = scratch.displaced.iter().map(|mapping| (mapping.region, mapping.iova.len()));
            self.0.registry.unpin(&mut state.pinner, displaced);
        }
    }

    /// Records lost mappings as unmapped and removes them from containers that still hold them.
    /// What cannot be removed is added to the error.
    pub(super) fn drop_lost(&self, state: &mut State, error: &mut NotRestored) {
        for &range in &error.lost {
            let stale = &mut state.stale;
            self.0.mappings.write().remove(range, |mapping| stale.insert(mapping));
        }
        apply::clear_stale(&self.0.registry, state);
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
                for stale in mappings.gaps(part.iova).filter_map(|gap| part.clip(gap)) {
                    state.stale.insert(stale);
                    rest -= stale.iova.len();
                }
            }
            self.0.registry.unpin(&mut state.pinner, [(mapping.region, rest)].into_iter());
        }
    }

    /// Unmaps everything in `range`, which must be whole IOMMU pages of one window: part of a
    /// mapping, or several mappings. Returns the number of bytes that were mapped.
    pub fn unmap(&self, range: IovaRange) -> Result<u64, UnmapError> {
        let Locked { state, scratch } = &mut *self.0.state.lock();
        let result = self.unmap_range(state, scratch, range);
        self.0.counters.unmap(&result);
        result
    }

    fn unmap_range(&self, state: &mut State, scratch: &mut Scratch, range: IovaRange) -> Result<u64, UnmapError> {
        apply::clear_stale(&self.0.registry, state);
        let Some(window) = state.windows.containing(range) else {
            return Err(UnmapError::NoWindow { asked: range });
        };
        let page = window.page;
        if !range.is_aligned(page) {
            return Err(UnmapError::Misaligned { asked: range, page });
        }
        // Nobody else changes the map while the state is locked; others read it meanwhile.
        let mappings = self.0.mappings.upgradable_read();
        let removed = &mut scratch.displaced;
        removed.clear();
        let exact = mappings.exact(range);
        match exact {
            Some((_, mapping)) => removed.push(mapping),
            None => removed.extend(mappings.overlapping(range)),
        }
        if removed.is_empty() {
            return Ok(0);
        }
        state.interrupted = true;
        let applied = apply::unmap(self.host(), &state.container_files, removed, page);
        state.interrupted = false;
        match applied {
            Ok(()) => {
                let mut mappings = RwLockUpgradableReadGuard::upgrade(mappings);
                match exact {
                    Some((spot, _)) => mappings.remove_at(spot),
                    None => mappings.remove(range, |_| {}),
                }
                drop(mappings);
                let parts = removed.iter().map(|mapping| (mapping.region, mapping.iova.len()));
                self.0.registry.unpin(&mut state.pinner, parts);
                Ok(removed.iter().map(|mapping| mapping.iova.len()).sum())
            }
            Err(ApplyError::Refused(error)) => Err(UnmapError::Refused(error)),
            Err(ApplyError::NotRestored(mut error)) => {
                drop(mappings);
                self.drop_lost(state, &mut error);
                Err(error.into())
            }
        }
    }

    /// Returns the counters of maps and unmaps.
    pub fn stats(&self) -> SpaceStats {
        self.0.counters.get()
    }

    /// Checks requests against windows and map. Leaves them in `scratch.requests`, in order of bus
    /// address, each with its window's page ([`Self::plan_missing`] finds the page where there is
    /// no window yet), and what they displace in `scratch.displaced`.
    pub(super) fn check(
        &self,
        state: &State,
        requests: &[MapRequest],
        overlap: Overlap,
        scratch: &mut Scratch,
        mappings: &IntervalMap<RegionId>,
    ) -> Result<(), MapError> {
        let Scratch { requests: sorted, displaced, .. } = scratch;
        sorted.clear();
        displaced.clear();
        let mut window = None;
        for &request in requests {
            if state.containers.is_empty() {
                return Err(MapError::NoGroup { asked: request.iova });
            }
            // Neighbouring requests usually share a window.
            if window.is_none_or(|window: &Window| !window.range.contains_range(&request.iova)) {
                window = state.windows.containing(request.iova);
            }
            if let (Some(facts), true) = (&state.facts, window.is_some()) {
                let over = |why| MapError::NoWindow { asked: request.iova, why };
                facts.check_mmio(request.iova).map_err(over)?;
            }
            let page = window.map(|window| window.page);
            aligned(&request, page.unwrap_or(PageShift::P4K))?;
            sorted.push(Checked { request, user: user_range(&request)?, page });
        }
        let apart = |pair: &[Checked]| pair[0].request.iova.end() <= pair[1].request.iova.start();
        if !sorted.windows(2).all(apart) {
            sorted.sort_unstable_by_key(|checked| checked.request.iova);
            if let Some(pair) = sorted.windows(2).find(|pair| !apart(pair)) {
                let (first, second) = (pair[0].request.iova, pair[1].request.iova);
                return Err(MapError::Twice { first, second });
            }
        }
        for Checked { request, .. } in sorted.iter().filter(|_| !state.stale.is_empty()) {
            if let Some(stale) = state.stale.first_overlap(request.iova) {
                let (present, user) = (stale.iova, stale.user);
                return Err(MapError::Overlap { asked: request.iova, present, user });
            }
        }
        find_displaced(mappings, overlap, sorted, displaced)
    }

    /// Plans the windows for requests that no window holds, and sets their page: one window for
    /// requests in the default window's bus addresses, one for the others.
    fn plan_missing(&self, state: &State, scratch: &mut Scratch) -> Result<Vec<Missing>, MapError> {
        let mut missing = Vec::new();
        if scratch.requests.iter().any(|checked| checked.page.is_none()) {
            let default = state.facts.and_then(|facts| facts.default);
            let low = |request: &MapRequest| default.is_some_and(|default| default.contains(request.iova.start()));
            missing.extend(self.plan_one(state, scratch, None, low)?);
            let first = missing.first().map(|missing: &Missing| missing.plan.clone());
            missing.extend(self.plan_one(state, scratch, first.as_ref(), |request| !low(request))?);
        }
        Ok(missing)
    }

    /// Plans the window for those requests without one that `its` selects, given the state after
    /// `first` is carried out.
    fn plan_one(
        &self,
        state: &State,
        scratch: &mut Scratch,
        first: Option<&Plan>,
        its: impl Fn(&MapRequest) -> bool,
    ) -> Result<Option<Missing>, MapError> {
        let lacks_window = |checked: &&Checked| checked.page.is_none() && its(&checked.request);
        let mut hull: Option<IovaRange> = None;
        let mut max_iommu_page = PageShift::P1G;
        for Checked { request, user, .. } in scratch.requests.iter().filter(lacks_window) {
            hull = Some(hull.map_or(request.iova, |hull| hull.hull(&request.iova)));
            let aligned = PageShift::aligning(request.iova.start().0 | request.iova.len() | request.user.0);
            // Memory without a lease limits nothing here: `pin` refuses it.
            let limits = [aligned, self.0.registry.max_iommu_page(*user)];
            max_iommu_page = limits.into_iter().flatten().fold(max_iommu_page, PageShift::min);
        }
        let Some(range) = hull else { return Ok(None) };
        let all = with_reserved(state, range);
        // At most a host page: the next mapping may be aligned to no more.
        let max_iommu_page = max_iommu_page.min(self.host().page_shift());
        let request = WindowRequest::cover(all).max_iommu_page(max_iommu_page).entries(DEMAND_ENTRIES);
        let mut input = self.plan_input(state, Some(all))?;
        if let Some(first) = first {
            input = input.after(first);
        }
        // Windows that hold other requests of the call count as used.
        let settled = |window: &IovaRange| {
            scratch.requests.iter().any(|c| c.page.is_some() && window.contains_range(&c.request.iova))
        };
        for live in &mut input.live {
            live.in_use |= settled(&live.window.range);
        }
        let plan = self.plan_in(state, &input, &request).map_err(|error| match error {
            WindowError::Refused(why) => MapError::NoWindow { asked: range, why },
            other => other.into(),
        })?;
        let Planned { page, .. } = plan.window;
        for checked in scratch.requests.iter_mut().filter(|checked| lacks_window(&&**checked)) {
            checked.page = Some(page);
            aligned(&checked.request, page)?;
        }
        Ok(Some(Missing { range, plan }))
    }
}

/// Collects the mappings at the bus addresses of the requests, or fails at the first one.
fn find_displaced(
    mappings: &IntervalMap<RegionId>,
    overlap: Overlap,
    sorted: &[Checked],
    displaced: &mut Vec<Mapping<RegionId>>,
) -> Result<(), MapError> {
    let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return Ok(()) };
    if mappings.first_overlap(first.request.iova.hull(&last.request.iova)).is_none() {
        return Ok(());
    }
    for Checked { request, .. } in sorted {
        match overlap {
            Overlap::Replace => displaced.extend(mappings.overlapping(request.iova)),
            Overlap::Refuse => {
                if let Some(present) = mappings.first_overlap(request.iova) {
                    let (present, user) = (present.iova, present.user);
                    return Err(MapError::Overlap { asked: request.iova, present, user });
                }
            }
        }
    }
    Ok(())
}

/// Returns whether a container that joined later still lacks the default window.
fn lacks_default(state: &State) -> bool {
    state.windows.default == DefaultWindow::Live && state.containers.iter().any(|container| container.default_pending)
}

/// Returns the user memory of a request.
fn user_range(request: &MapRequest) -> Result<UserRange, MapError> {
    UserRange::new(request.user, request.iova.len()).map_err(|_| {
        // The range would wrap, so its last byte cannot be registered.
        let last = UserRange::new(UserAddr(u64::MAX - 1), 1).ok();
        match (UserRange::between(request.user, UserAddr(u64::MAX)), last) {
            (Some(asked), Some(missing)) => PinError::NotRegistered { asked, missing }.into(),
            _ => MapError::UserMisaligned { asked: request.iova, user: request.user, page: PageShift::P4K },
        }
    })
}

/// Checks that a request is aligned to a window's `page`.
fn aligned(request: &MapRequest, page: PageShift) -> Result<(), MapError> {
    if !request.iova.is_aligned(page) {
        return Err(MapError::Misaligned { asked: request.iova, page });
    }
    if request.user.0 & page.mask() != 0 {
        return Err(MapError::UserMisaligned { asked: request.iova, user: request.user, page });
    }
    Ok(())
}

/// Iterates over the mappings that requests and the parts pinned for them make, in order.
fn new_mappings(scratch: &Scratch) -> impl Iterator<Item = Mapping<RegionId>> + '_ {
    let mut requests = scratch.requests.iter().map(|checked| checked.request);
    let mut current: Option<(MapRequest, IovaRange)> = None;
    scratch.parts.iter().filter_map(move |part| {
        let (request, rest) = current.take().or_else(|| requests.next().map(|request| (request, request.iova)))?;
        let (iova, rest) = rest.split(part.user.len());
        current = rest.map(|rest| (request, rest));
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
