//! The registry's books: regions, what leases cover, what is mapped. No kernel call is made here.

use super::{PinError, RegionStatus};
use crate::addr::{PageShift, UserAddr, UserRange};
use crate::host::Fd;
use rangemap::RangeMap;
use slab::Slab;

/// A region of the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId(u32);

impl RegionId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// A kernel region: what one REGISTER registered.
#[derive(Debug)]
pub(super) struct Region {
    pub range: UserRange,
    /// The largest IOMMU page it can carry.
    pub carries: PageShift,
    /// Leases that touch it.
    pub leases: u32,
    /// Bytes of bus addresses that point into it, over all address spaces.
    pub mapped: u64,
    /// Containers it is registered in; none while no container is there.
    pub containers: Vec<Fd>,
}

impl Region {
    fn is_idle(&self) -> bool {
        self.leases == 0 && self.mapped == 0
    }
}

/// A part of user memory that was pinned for a map, in one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub region: RegionId,
    pub user: UserRange,
}

/// The region under a stretch of memory, and how many leases cover just this stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cover {
    region: RegionId,
    leases: u32,
}

#[derive(Debug, Default)]
pub(super) struct Books {
    regions: Slab<Region>,
    coverage: RangeMap<u64, Cover>,
    /// Regions that nothing needs any more.
    idle: Vec<RegionId>,
}

fn std_range(range: UserRange) -> std::ops::Range<u64> {
    range.start().0..range.end().0
}

fn user_range(range: &std::ops::Range<u64>) -> Option<UserRange> {
    UserRange::between(UserAddr(range.start), UserAddr(range.end))
}

impl Books {
    pub(super) fn get(&self, id: RegionId) -> Option<&Region> {
        self.regions.get(id.index())
    }

    pub(super) fn get_mut(&mut self, id: RegionId) -> Option<&mut Region> {
        self.regions.get_mut(id.index())
    }

    pub(super) fn ids(&self) -> Vec<RegionId> {
        self.regions.iter().map(|(index, _)| RegionId(index as u32)).collect()
    }

    /// The stretches of `range` under which there is no region.
    pub(super) fn gaps(&self, range: UserRange) -> Vec<UserRange> {
        self.coverage.gaps(&std_range(range)).filter_map(|gap| user_range(&gap)).collect()
    }

    /// Enters a region; no region may be there.
    pub(super) fn insert(&mut self, range: UserRange, carries: PageShift, containers: Vec<Fd>) -> RegionId {
        let index = self.regions.insert(Region { range, carries, leases: 0, mapped: 0, containers });
        let id = RegionId(index as u32);
        self.coverage.insert(std_range(range), Cover { region: id, leases: 0 });
        id
    }

    /// Takes a region out that nothing needs any more; `None` when there is none.
    pub(super) fn take_idle(&mut self) -> Option<Region> {
        while let Some(id) = self.idle.pop() {
            if self.get(id).is_some_and(Region::is_idle) {
                let region = self.regions.remove(id.index());
                self.coverage.remove(std_range(region.range));
                return Some(region);
            }
        }
        None
    }

    pub(super) fn has_idle(&self) -> bool {
        !self.idle.is_empty()
    }

    fn note_if_idle(&mut self, id: RegionId) {
        if self.get(id).is_some_and(Region::is_idle) {
            self.idle.push(id);
        }
    }

    fn covers(&self, range: UserRange) -> impl Iterator<Item = (UserRange, Cover)> + '_ {
        self.coverage
            .overlapping(std_range(range))
            .filter_map(move |(at, cover)| Some((user_range(at)?.intersection(&range)?, *cover)))
    }

    fn regions_under(&self, range: UserRange) -> Vec<RegionId> {
        let mut ids: Vec<_> = self.covers(range).map(|(_, cover)| cover.region).collect();
        ids.dedup();
        ids
    }

    fn recount(&mut self, range: UserRange, change: impl Fn(u32) -> u32) {
        let covers: Vec<_> = self.covers(range).collect();
        for (part, cover) in covers {
            self.coverage.insert(std_range(part), Cover { leases: change(cover.leases), ..cover });
        }
    }

    /// Counts a lease in; regions lie under all of `range`.
    pub(super) fn add_lease(&mut self, range: UserRange) {
        self.cover(range);
        for id in self.regions_under(range) {
            if let Some(region) = self.get_mut(id) {
                region.leases += 1;
            }
        }
    }

    /// Lets new maps into `range` again after [`Self::uncover`].
    pub(super) fn cover(&mut self, range: UserRange) {
        self.recount(range, |leases| leases.saturating_add(1));
    }

    /// No new map may rely on this lease any more; its regions stay. Returns the stretches that nothing else covers and
    /// that may be mapped.
    pub(super) fn uncover(&mut self, range: UserRange) -> Vec<UserRange> {
        self.recount(range, |leases| leases.saturating_sub(1));
        self.covers(range)
            .filter(|(_, cover)| cover.leases == 0 && self.get(cover.region).is_some_and(|region| region.mapped > 0))
            .map(|(part, _)| part)
            .collect()
    }

    /// Lets the regions of an uncovered lease go.
    pub(super) fn drop_lease(&mut self, range: UserRange) {
        for id in self.regions_under(range) {
            if let Some(region) = self.get_mut(id) {
                region.leases = region.leases.saturating_sub(1);
            }
            self.note_if_idle(id);
        }
    }

    /// Finds the regions under each of `wanted`, for maps with IOMMU pages of its size, in address order.
    pub(super) fn parts_of(
        &self,
        wanted: impl Iterator<Item = (UserRange, PageShift)>,
        parts: &mut Vec<Part>,
    ) -> Result<(), PinError> {
        // The stretch the last one was found in serves the next one, mostly.
        let mut last: Option<(UserRange, RegionId, PageShift)> = None;
        let mut wanted = wanted.peekable();
        while let Some((user, page)) = wanted.next() {
            match last {
                Some((stretch, region, carries)) if stretch.contains_range(&user) && page <= carries => {
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

    /// The leased stretch at an address, its region, and the page that carries.
    fn leased_at(&self, at: UserAddr) -> Option<(UserRange, RegionId, PageShift)> {
        let (stretch, cover) = self.coverage.get_key_value(&at.0).filter(|(_, cover)| cover.leases > 0)?;
        Some((user_range(stretch)?, cover.region, self.get(cover.region)?.carries))
    }

    /// Finds the regions under `user` for a map with IOMMU pages of `page`, in address order.
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
                last.user = UserRange::between(last.user.start(), part.end()).unwrap_or(part);
                continue;
            }
            let region = self.get(cover.region).ok_or(PinError::NotRegistered { asked: user, missing: part })?;
            if region.carries < page {
                return Err(PinError::PageTooLarge {
                    asked: user,
                    region: region.range,
                    carries: region.carries,
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

    /// Counts bytes of bus addresses that point into a region.
    pub(super) fn pin(&mut self, region: RegionId, bytes: u64) {
        if let Some(region) = self.get_mut(region) {
            region.mapped += bytes;
        }
    }

    /// Counts them out again.
    pub(super) fn unpin(&mut self, id: RegionId, bytes: u64) {
        if let Some(region) = self.get_mut(id) {
            region.mapped = region.mapped.saturating_sub(bytes);
        }
        self.note_if_idle(id);
    }

    pub(super) fn status(&self) -> Vec<RegionStatus> {
        let mut status: Vec<_> = self
            .regions
            .iter()
            .map(|(_, region)| RegionStatus {
                range: region.range,
                carries: region.carries,
                leases: region.leases,
                mapped: region.mapped,
                containers: region.containers.len(),
            })
            .collect();
        status.sort_by_key(|region| region.range);
        status
    }
}
