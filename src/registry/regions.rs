//! The registry's table of regions: what leases cover, and what is mapped. Makes no kernel calls.
//!
//! The backing of memory decides where one region ends and the next begins, and the largest IOMMU
//! page a region can serve.

use super::delegated::{PinningSpace, Pins};
use super::pins::Generation;
use super::{PinError, RegionStatus, RegisterError};
use crate::addr::{PageShift, UserAddr, UserRange};
use crate::host::{Fd, Host};
use rangemap::RangeMap;
use slab::Slab;

/// Identifies a region of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(u32);

impl RegionId {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A kernel region, registered by one REGISTER.
#[derive(Debug)]
pub(super) struct Region {
    pub range: UserRange,
    /// Largest IOMMU page it can serve.
    pub max_iommu_page: PageShift,
    /// Number of pending releases; the region stays until they are finished.
    pub pending_releases: u32,
    /// Whether part of it no longer has a lease.
    pub partly_leased: bool,
    /// Bytes of bus addresses that point into it, by address space.
    pub pins: Box<[Pins]>,
    /// Containers it is registered in; none until there is a container.
    pub containers: Vec<Fd>,
}

impl Region {
    /// Adds a container it is registered in.
    pub(super) fn add_container(&mut self, container: Fd) {
        // Most regions have one.
        self.containers.reserve_exact(1);
        self.containers.push(container);
    }
}

/// A part of user memory that was pinned for a map, within one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub region: RegionId,
    pub user: UserRange,
}

/// The region that covers a stretch of memory, and how many leases cover exactly this stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cover {
    region: RegionId,
    leases: u32,
}

#[derive(Debug, Default)]
pub(super) struct Regions {
    pub(super) regions: Slab<Region>,
    coverage: RangeMap<u64, Cover>,
    /// Regions that may no longer be needed, or not as a whole.
    idle: Vec<RegionId>,
    /// Spaces that pin.
    pub(super) spaces: Slab<PinningSpace>,
    /// Advances whenever a lease ends.
    pub(super) generation: Generation,
}

/// A region to unregister.
pub(super) struct IdleRegion {
    pub region: Region,
    /// The regions that replace it, for stretches that are still leased.
    pub remaining: Vec<RegionId>,
}

impl Regions {
    pub(super) fn get(&self, id: RegionId) -> Option<&Region> {
        self.regions.get(id.index())
    }

    pub(super) fn get_mut(&mut self, id: RegionId) -> Option<&mut Region> {
        self.regions.get_mut(id.index())
    }

    pub(super) fn ids(&self) -> Vec<RegionId> {
        self.regions.iter().map(|(index, _)| RegionId(index as u32)).collect()
    }

    /// Returns the stretches of `range` without a region.
    pub(super) fn gaps(&self, range: UserRange) -> Vec<UserRange> {
        self.coverage.gaps(&range.raw()).filter_map(|gap| UserRange::from_raw(&gap)).collect()
    }

    /// Inserts a region; no region may be there.
    pub(super) fn insert(&mut self, range: UserRange, max_iommu_page: PageShift, containers: Vec<Fd>) -> RegionId {
        let index = self.regions.insert(Region {
            range,
            max_iommu_page,
            pending_releases: 0,
            partly_leased: false,
            pins: Box::default(),
            containers,
        });
        let id = RegionId(index as u32);
        self.coverage.insert(range.raw(), Cover { region: id, leases: 0 });
        id
    }

    /// Removes and returns a region that nothing maps and that is no longer leased, or only in
    /// part; `None` if there is none. The kernel cannot unregister a part of a region, and must not
    /// keep it: devices would not see memory the user maps there next.
    pub(super) fn take_idle(&mut self) -> Option<IdleRegion> {
        while let Some(id) = self.idle.pop() {
            if !self.get(id).is_some_and(|region| self.is_idle(region)) {
                continue;
            }
            let region = self.regions.remove(id.index());
            self.free_slots(&region);
            let leased: Vec<_> = self.covers(region.range).filter(|(_, cover)| cover.leases > 0).collect();
            self.coverage.remove(region.range.raw());
            let mut remaining = Vec::new();
            let mut end = None;
            for (part, cover) in leased {
                let id = match remaining.last() {
                    Some(&last) if end == Some(part.start()) => self.extend_to(last, part.end()),
                    _ => None,
                };
                let id = id.unwrap_or_else(|| {
                    let new = self.insert(part, region.max_iommu_page, Vec::new());
                    remaining.push(new);
                    new
                });
                self.coverage.insert(part.raw(), Cover { region: id, ..cover });
                end = Some(part.end());
            }
            for &id in &remaining {
                if let Some(region) = self.get_mut(id) {
                    region.max_iommu_page = max_iommu_page(region.range, region.max_iommu_page);
                }
            }
            return Some(IdleRegion { region, remaining });
        }
        None
    }

    /// Extends a region up to `end`.
    fn extend_to(&mut self, id: RegionId, end: UserAddr) -> Option<RegionId> {
        let region = self.get_mut(id)?;
        region.range = UserRange::between(region.range.start(), end)?;
        Some(id)
    }

    pub(super) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    /// Queues a region that may have to be unregistered, wholly or in part.
    pub(super) fn queue_if_idle(&mut self, id: RegionId) {
        if self.get(id).is_some_and(|region| self.is_idle(region)) {
            self.idle.push(id);
        }
    }

    /// Returns whether a region is not leased throughout, and nothing needs it as it is.
    fn is_idle(&self, region: &Region) -> bool {
        region.partly_leased && region.pending_releases == 0 && self.mapped(region) == 0
    }

    /// Changes the count of pending releases of each region in `range`.
    fn change_pending(&mut self, range: UserRange, change: impl Fn(u32) -> u32) {
        for id in self.regions_under(range) {
            if let Some(region) = self.get_mut(id) {
                region.pending_releases = change(region.pending_releases);
            }
            self.queue_if_idle(id);
        }
    }

    /// Finds a part of `range` that is no longer leased, but whose region stays because something
    /// in it is mapped.
    pub(super) fn stale(&self, range: UserRange) -> Option<UserRange> {
        self.covers(range).find(|(_, cover)| cover.leases == 0).map(|(part, _)| part)
    }

    /// Returns whether a lease covers any part of a region.
    pub(super) fn is_leased(&self, region: &Region) -> bool {
        self.covers(region.range).any(|(_, cover)| cover.leases > 0)
    }

    fn covers(&self, range: UserRange) -> impl Iterator<Item = (UserRange, Cover)> + '_ {
        self.coverage
            .overlapping(range.raw())
            .filter_map(move |(at, cover)| Some((UserRange::from_raw(at)?.intersection(&range)?, *cover)))
    }

    fn regions_under(&self, range: UserRange) -> Vec<RegionId> {
        let mut ids: Vec<_> = self.covers(range).map(|(_, cover)| cover.region).collect();
        ids.dedup();
        ids
    }

    fn recount(&mut self, range: UserRange, change: impl Fn(u32) -> u32) {
        let covers: Vec<_> = self.covers(range).collect();
        for (part, cover) in covers {
            self.coverage.insert(part.raw(), Cover { leases: change(cover.leases), ..cover });
        }
    }

    /// Counts a lease, or counts it again after [`Self::begin_release`]; regions must cover all of
    /// `range`.
    pub(super) fn add_lease(&mut self, range: UserRange) {
        self.recount(range, |leases| leases.saturating_add(1));
    }

    /// Begins a release: no new map may rely on this lease any longer, but its regions stay as they
    /// are until [`Self::finish_release`]. Returns the stretches that nothing else covers and that
    /// may be mapped.
    pub(super) fn begin_release(&mut self, range: UserRange) -> Vec<UserRange> {
        self.recount(range, |leases| leases.saturating_sub(1));
        self.generation.advance();
        self.change_pending(range, |pending| pending + 1);
        self.covers(range)
            .filter(|(_, cover)| {
                cover.leases == 0 && self.get(cover.region).is_some_and(|region| self.mapped(region) > 0)
            })
            .map(|(part, _)| part)
            .collect()
    }

    /// Ends a release, whether granted or refused.
    pub(super) fn finish_release(&mut self, range: UserRange) {
        let unleased: Vec<_> =
            self.covers(range).filter(|(_, cover)| cover.leases == 0).map(|(_, cover)| cover.region).collect();
        for id in unleased {
            if let Some(region) = self.get_mut(id) {
                region.partly_leased = true;
            }
        }
        self.change_pending(range, |pending| pending.saturating_sub(1));
    }

    /// Finds the regions of each of `wanted`, for maps with IOMMU pages of its size, in address
    /// order.
    pub(super) fn parts_of(
        &self,
        wanted: impl Iterator<Item = (UserRange, PageShift)>,
        parts: &mut Vec<Part>,
    ) -> Result<(), PinError> {
        // The stretch that held the last request usually holds the next one.
        let mut last: Option<(UserRange, RegionId, PageShift)> = None;
        let mut wanted = wanted.peekable();
        while let Some((user, page)) = wanted.next() {
            match last {
                Some((stretch, region, max_iommu_page)) if stretch.contains_range(&user) && page <= max_iommu_page => {
                    parts.push(Part { region, user });
                }
                _ => {
                    self.parts(user, page, parts)?;
                    last = wanted.peek().and_then(|_| self.leased_at(user.start()));
                }
            }
        }
        Ok(())
    }

    /// Returns the leased stretch at an address, its region, and the largest page that can serve.
    pub(super) fn leased_at(&self, at: UserAddr) -> Option<(UserRange, RegionId, PageShift)> {
        let (stretch, cover) = self.coverage.get_key_value(&at.0).filter(|(_, cover)| cover.leases > 0)?;
        Some((UserRange::from_raw(stretch)?, cover.region, self.get(cover.region)?.max_iommu_page))
    }

    /// Finds the regions of `user` for a map with IOMMU pages of `page`, in address order.
    pub(super) fn parts(&self, user: UserRange, page: PageShift, parts: &mut Vec<Part>) -> Result<(), PinError> {
        let mut at = user.start();
        let first = parts.len();
        for (part, cover) in self.covers(user) {
            if part.start() != at || cover.leases == 0 {
                break;
            }
            at = part.end();
            if let Some(last) = parts[first..].last_mut()
                && last.region == cover.region
            {
                last.user = last.user.hull(&part);
                continue;
            }
            let region = self.get(cover.region).ok_or(PinError::NotRegistered { asked: user, missing: part })?;
            if region.max_iommu_page < page {
                return Err(PinError::PageTooLarge {
                    asked: user,
                    region: region.range,
                    max_iommu_page: region.max_iommu_page,
                    page,
                });
            }
            if part.start() != user.start() && part.start().0 & page.mask() != 0 {
                return Err(PinError::Straddles { asked: user, at: part.start(), page });
            }
            parts.push(Part { region: cover.region, user: part });
        }
        match UserRange::between(at, user.end()) {
            Some(missing) => Err(PinError::NotRegistered { asked: user, missing }),
            None => Ok(()),
        }
    }

    pub(super) fn status(&self) -> Vec<RegionStatus> {
        let mut status: Vec<_> = self.regions.iter().map(|(_, region)| self.status_of(region)).collect();
        status.sort_by_key(|region| region.range);
        status
    }

    fn status_of(&self, region: &Region) -> RegionStatus {
        RegionStatus {
            range: region.range,
            max_iommu_page: region.max_iommu_page,
            leases: self.covers(region.range).map(|(_, cover)| cover.leases).max().unwrap_or(0),
            mapped: self.mapped(region),
            containers: region.containers.len(),
        }
    }

    /// Returns up to `most` regions from an address on, by address; a region that reaches over the
    /// address is the first.
    #[cfg(feature = "inspect")]
    pub(super) fn status_from(&self, from: UserAddr, most: usize) -> Vec<RegionStatus> {
        let Some(rest) = UserRange::between(from, UserAddr(u64::MAX)) else { return Vec::new() };
        let mut last = None;
        let mut regions = self.covers(rest).filter(|(_, cover)| last.replace(cover.region) != Some(cover.region));
        let status = |(_, cover): (UserRange, Cover)| Some(self.status_of(self.get(cover.region)?));
        core::iter::from_fn(|| regions.next()).filter_map(status).take(most).collect()
    }
}

/// A stretch of memory of one page size, which will become one kernel region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub range: UserRange,
    /// Largest IOMMU page it can serve.
    pub max_iommu_page: PageShift,
}

/// Splits `gap` where the page size of its backing changes: one region over both would serve only
/// the smaller one (`mm_iommu_do_alloc`). Fails if part of it cannot be pinned.
pub(super) fn survey(host: &dyn Host, gap: UserRange) -> Result<Vec<Stretch>, RegisterError> {
    let mut stretches: Vec<(UserRange, PageShift)> = Vec::new();
    let mut at = gap.start();
    for extent in host.backing(gap).map_err(RegisterError::Backing)? {
        let Some(part) = extent.range.intersection(&gap) else { continue };
        if let Some(hole) = UserRange::between(at, part.start()) {
            return Err(RegisterError::Hole { asked: gap, hole });
        }
        if !extent.pinnable {
            return Err(RegisterError::NotPinnable { asked: gap, part });
        }
        at = part.end();
        match stretches.last_mut() {
            Some((last, page)) if *page == extent.page && last.end() == part.start() => {
                *last = last.hull(&part);
            }
            _ => stretches.push((part, extent.page)),
        }
    }
    if let Some(hole) = UserRange::between(at, gap.end()) {
        return Err(RegisterError::Hole { asked: gap, hole });
    }
    Ok(stretches
        .into_iter()
        .map(|(range, page)| Stretch { range, max_iommu_page: max_iommu_page(range, page) })
        .collect())
}

/// Returns the largest IOMMU page a region over `range` can serve, limited by its backing and by
/// the alignment of both its ends.
fn max_iommu_page(range: UserRange, backing: PageShift) -> PageShift {
    // Regions are whole host pages, of 4 KiB at least.
    PageShift::aligning(range.start().0 | range.len()).map_or(PageShift::P4K, |aligned| aligned.min(backing))
}

#[cfg(test)]
mod tests {
    use super::super::pins::Pinner;
    use super::*;

    const HALF: u64 = 0x10_0000;
    const PAGE: PageShift = PageShift::P64K;

    /// A region of two halves with a lease on each. The first lease is dropped while 64 KiB are
    /// mapped.
    fn half_leased() -> (Regions, Pinner, RegionId, UserRange) {
        let half = |number| UserRange::new(UserAddr(number * HALF), HALF).unwrap();
        let (low, high) = (half(1), half(2));
        let mut regions = Regions::default();
        let id = regions.insert(UserRange::between(low.start(), high.end()).unwrap(), PAGE, vec![Fd(7)]);
        regions.add_lease(low);
        regions.add_lease(high);
        let mut pinner = Pinner::default();
        regions.pin(&mut pinner, id, PAGE.bytes());
        assert_eq!(regions.begin_release(low), [low]);
        regions.finish_release(low);
        assert!(!regions.has_idle() && regions.take_idle().is_none(), "it is mapped");
        (regions, pinner, id, high)
    }

    /// Ends a release that was refused: the lease still holds, over a region of its own size, and
    /// its memory can be mapped.
    fn refused(mut regions: Regions, high: UserRange) {
        regions.add_lease(high);
        regions.finish_release(high);
        let Some(IdleRegion { region, remaining }) = regions.take_idle() else { panic!("half of it is not leased") };
        assert_eq!((region.range.len(), region.containers), (2 * HALF, vec![Fd(7)]));
        assert_eq!(remaining.iter().map(|&id| regions.get(id).unwrap().range).collect::<Vec<_>>(), [high]);
        let mut parts = Vec::new();
        regions.parts(high, PAGE, &mut parts).unwrap();
        assert_eq!(parts, [Part { region: remaining[0], user: high }]);
        assert!(regions.take_idle().is_none());
    }

    #[test]
    fn a_region_stays_while_a_release_is_decided_though_its_last_map_goes() {
        let (mut regions, pinner, id, high) = half_leased();
        assert_eq!(regions.begin_release(high), [high]);
        regions.unpin(&pinner, id, PAGE.bytes());
        assert!(regions.take_idle().is_none());
        refused(regions, high);
    }

    #[test]
    fn a_region_noted_as_idle_before_stays_as_well() {
        let (mut regions, mut pinner, id, high) = half_leased();
        regions.unpin(&pinner, id, PAGE.bytes());
        assert!(regions.has_idle(), "and nobody has given it back yet");
        regions.pin(&mut pinner, id, PAGE.bytes());
        assert_eq!(regions.begin_release(high), [high]);
        regions.unpin(&pinner, id, PAGE.bytes());
        assert!(regions.take_idle().is_none());
        refused(regions, high);
    }

    #[test]
    fn a_region_that_is_mapped_again_before_it_is_given_back_stays() {
        let (mut regions, mut pinner, id, high) = half_leased();
        regions.unpin(&pinner, id, PAGE.bytes());
        regions.pin(&mut pinner, id, PAGE.bytes());
        assert!(regions.has_idle() && regions.take_idle().is_none(), "it was noted as idle");
        regions.unpin(&pinner, id, PAGE.bytes());
        let idle = regions.take_idle().unwrap();
        assert_eq!(idle.remaining.iter().map(|&id| regions.get(id).unwrap().range).collect::<Vec<_>>(), [high]);
    }

    #[test]
    fn two_releases_are_decided_before_a_region_goes() {
        let (mut regions, pinner, id, high) = half_leased();
        regions.add_lease(high);
        assert_eq!(regions.begin_release(high), []);
        assert_eq!(regions.begin_release(high), [high]);
        regions.unpin(&pinner, id, PAGE.bytes());
        regions.finish_release(high);
        assert!(regions.take_idle().is_none(), "one is still being decided");
        regions.finish_release(high);
        let idle = regions.take_idle().unwrap();
        assert!(idle.remaining.is_empty() && regions.ids().is_empty() && regions.gaps(high) == [high]);
    }

    #[test]
    fn a_part_that_is_kept_carries_no_larger_page_than_its_ends_allow() {
        let range = |start, len| UserRange::new(UserAddr(start), len).unwrap();
        let mut regions = Regions::default();
        regions.insert(range(0x20_0000, 0x40_0000), PageShift::P2M, Vec::new());
        let (whole, part) = (range(0x20_0000, 0x20_0000), range(0x41_0000, 0x1_0000));
        regions.add_lease(range(0x20_0000, 0x40_0000));
        [whole, part].into_iter().for_each(|range| regions.add_lease(range));
        regions.begin_release(range(0x20_0000, 0x40_0000));
        regions.finish_release(range(0x20_0000, 0x40_0000));
        let idle = regions.take_idle().unwrap();
        let remaining: Vec<_> =
            idle.remaining.iter().map(|&id| regions.get(id).unwrap()).map(|r| (r.range, r.max_iommu_page)).collect();
        assert_eq!(remaining, [(whole, PageShift::P2M), (part, PageShift::P64K)]);
    }

    #[test]
    fn a_lease_that_is_dropped_exposes_only_what_is_mapped_and_leased_no_more() {
        let half = |number| UserRange::new(UserAddr(number * HALF), HALF).unwrap();
        let whole = UserRange::new(UserAddr(HALF), 2 * HALF).unwrap();
        let mut regions = Regions::default();
        let id = regions.insert(whole, PAGE, Vec::new());
        regions.add_lease(whole);
        assert_eq!(regions.begin_release(whole), [], "nothing is mapped");
        regions.add_lease(whole);
        regions.add_lease(half(2));
        regions.pin(&mut Pinner::default(), id, 1);
        assert_eq!(regions.begin_release(whole), [half(1)]);
    }

    #[test]
    fn a_region_is_held_once_for_each_release_however_its_leases_lie() {
        let half = UserRange::new(UserAddr(2 * HALF), HALF).unwrap();
        let whole = UserRange::new(UserAddr(HALF), 2 * HALF).unwrap();
        let mut regions = Regions::default();
        let id = regions.insert(whole, PAGE, Vec::new());
        regions.add_lease(whole);
        regions.add_lease(half);
        // Two stretches when the first begins to go, one when it has gone.
        regions.begin_release(whole);
        regions.begin_release(half);
        assert_eq!(regions.get(id).map(|region| region.pending_releases), Some(2));
        regions.finish_release(whole);
        regions.finish_release(half);
        assert!(regions.take_idle().is_some_and(|idle| idle.remaining.is_empty()));
    }

    #[test]
    fn alignment_and_backing_bound_the_page() {
        let range = |start, len| UserRange::new(UserAddr(start), len).unwrap();
        assert_eq!(max_iommu_page(range(0x20_0000, 0x40_0000), PageShift::P2M), PageShift::P2M);
        assert_eq!(max_iommu_page(range(0x20_0000, 0x41_0000), PageShift::P2M), PageShift::P64K);
        assert_eq!(max_iommu_page(range(0x20_1000, 0x40_0000), PageShift::P2M), PageShift::P4K);
        assert_eq!(max_iommu_page(range(0x20_0000, 0x40_0000), PageShift::P64K), PageShift::P64K);
    }
}
