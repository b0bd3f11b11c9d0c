//! Checks map requests before the kernel is called, since the kernel checks no bounds itself.

use super::maps::{Checked, Scratch};
use super::windows::{Missing, with_reserved};
use super::{AddressSpace, MapError, MapRequest, Overlap, State, WindowError};
use crate::addr::{IovaRange, PageShift, UserAddr, UserRange};
use crate::map::Mapping;
use crate::registry::{PinError, RegionId};
use crate::window::{Plan, Planned, Window, WindowRequest};

/// Fewest TCEs of a window created on demand: room for more, cheap to tear down.
const DEMAND_ENTRIES: u64 = 16 << 10;

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

impl AddressSpace {
    /// Checks requests against windows and map. Leaves them in `scratch.requests`, in order of bus
    /// address, each with its window's page ([`Self::plan_missing`] finds the page where there is
    /// no window yet), and what they displace in `scratch.displaced`.
    pub(super) fn check(
        &self,
        state: &State,
        requests: &[MapRequest],
        overlap: Overlap,
        scratch: &mut Scratch,
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
            if let Some(facts) = state.facts.filter(|_| window.is_some()) {
                let over = |why| MapError::NoWindow { asked: request.iova, why };
                facts.clear_of_mmio(request.iova).map_err(over)?;
            }
            let page = window.map(|window| window.page);
            aligned(&request, page.unwrap_or(PageShift::P4K))?;
            sorted.push(Checked { request, user: user_range(&request)?, page });
        }
        if !sorted.is_sorted_by_key(|checked| checked.request.iova) {
            sorted.sort_unstable_by_key(|checked| checked.request.iova);
        }
        for pair in sorted.windows(2) {
            let (first, second) = (pair[0].request.iova, pair[1].request.iova);
            if first.end() > second.start() {
                return Err(MapError::Twice { first, second });
            }
        }
        for Checked { request, .. } in sorted.iter().filter(|_| !state.stale.is_empty()) {
            if let Some(stray) = state.stale.first_overlap(request.iova) {
                let (present, user) = (stray.iova, stray.user);
                return Err(MapError::Overlap { asked: request.iova, present, user });
            }
        }
        self.look_for_others(overlap, sorted, displaced)
    }

    /// Finds what is mapped at the bus addresses of the requests.
    fn look_for_others(
        &self,
        overlap: Overlap,
        sorted: &[Checked],
        displaced: &mut Vec<Mapping<RegionId>>,
    ) -> Result<(), MapError> {
        let (Some(first), Some(last)) = (sorted.first(), sorted.last()) else { return Ok(()) };
        let mappings = self.0.mappings.read();
        let hull = IovaRange::between(first.request.iova.start(), last.request.iova.end());
        if hull.is_some_and(|hull| mappings.first_overlap(hull).is_none()) {
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

    /// Plans the windows for requests that no window holds, and sets their page: one for those in
    /// the default window's bus addresses, one for the others.
    pub(super) fn plan_missing(&self, state: &State, scratch: &mut Scratch) -> Result<Vec<Missing>, MapError> {
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

    /// Plans the window for those requests without one that are `its`, given the state after
    /// `first` is carried out.
    fn plan_one(
        &self,
        state: &State,
        scratch: &mut Scratch,
        first: Option<&Plan>,
        its: impl Fn(&MapRequest) -> bool,
    ) -> Result<Option<Missing>, MapError> {
        let homeless = |checked: &&Checked| checked.page.is_none() && its(&checked.request);
        let mut hull: Option<IovaRange> = None;
        let mut max_iommu_page = PageShift::P1G;
        for Checked { request, user, .. } in scratch.requests.iter().filter(homeless) {
            let start = hull.map_or(request.iova.start(), |hull| hull.start());
            hull = IovaRange::between(start, request.iova.end());
            let aligned = (request.iova.start().0 | request.iova.len() | request.user.0).trailing_zeros();
            max_iommu_page = max_iommu_page
                .min(self.0.registry.max_iommu_page(*user).unwrap_or(max_iommu_page))
                .min(PageShift::new(aligned.min(34)).unwrap_or(PageShift::P4K));
        }
        let Some(range) = hull else { return Ok(None) };
        let all = with_reserved(state, range);
        // No larger than a host page: the next mapping may not be aligned to more.
        let max_iommu_page = max_iommu_page.min(self.host().page_shift());
        let request = WindowRequest::cover(all).max_iommu_page(max_iommu_page).entries(DEMAND_ENTRIES);
        let mut input = self.plan_input(state, Some(all))?;
        if let Some(first) = first {
            input = input.after(first);
        }
        // Requests in an existing window will be mapped in that one.
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
        for checked in scratch.requests.iter_mut().filter(|checked| homeless(&&**checked)) {
            checked.page = Some(page);
            aligned(&checked.request, page)?;
        }
        Ok(Some(Missing { range, plan }))
    }
}
