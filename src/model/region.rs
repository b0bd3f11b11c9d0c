//! The process-wide list of registered regions (`arch/powerpc/mm/book3s64/iommu_api.c`).

use super::process::{Process, Stretch};
use super::violation::Violation;
use crate::addr::{UserAddr, UserRange};
use crate::host::Errno;
use core::ops::Range;
use std::collections::BTreeMap;

/// Pages are pinned in chunks of this many: `(PAGE_SIZE << MAX_PAGE_ORDER) / 8` is the same with
/// both page sizes.
const PIN_CHUNK: u64 = 2 << 20;
/// Regions of more pages than this fail to allocate their array of 8 bytes a page (here: 512 GiB of
/// it).
const MAX_PAGES: u64 = 1 << 36;

#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) user: UserRange,
    /// User addresses of the region.
    pub(super) range: Range<u64>,
    /// The largest IOMMU page it can serve.
    pub(super) page_shift: u32,
    /// The pages present at REGISTER, whatever the process has mapped since.
    pub(super) pages: Vec<Stretch>,
    /// Number of containers that use it; an orphan counts one as well.
    pub(super) used: u64,
    /// Number of TCEs that point here, plus 1.
    pub(super) mapped: u64,
    /// Registration number, ascending: the list is newest first.
    pub(super) serial: u64,
}

impl Region {
    /// Returns the stretch of `pages` at an address, which must be in the region.
    fn at(&self, address: u64) -> Option<&Stretch> {
        let after = self.pages.partition_point(|(at, _)| at.start <= address);
        self.pages.get(after.checked_sub(1)?)
    }
}

/// A stretch of IOMMU pages that one region backs contiguously.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    /// First page, counted from the call's first.
    pub(super) index: u64,
    /// Number of pages.
    pub(super) count: u64,
    /// User address of the first page.
    pub(super) user: u64,
    /// Physical address minus user address.
    pub(super) delta: u64,
}

/// How dropping one use of a region ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PutResult {
    /// Other users remain, or it was freed.
    Done,
    /// The last user dropped it, but TCEs point there: it stays.
    Busy,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Regions {
    list: BTreeMap<u64, Region>,
    serial: u64,
}

impl Regions {
    pub(super) fn iter(&self) -> impl Iterator<Item = &Region> {
        self.list.values()
    }

    /// Returns the regions, newest first.
    pub(super) fn newest_first(&self) -> Vec<&Region> {
        let mut regions: Vec<_> = self.list.values().collect();
        regions.sort_by_key(|region| core::cmp::Reverse(region.serial));
        regions
    }

    /// Returns the region of exactly that range (`mm_iommu_get`).
    pub(super) fn exact(&mut self, range: &Range<u64>) -> Option<&mut Region> {
        self.list.get_mut(&range.start).filter(|region| region.range == *range)
    }

    pub(super) fn get(&self, start: u64) -> Option<&Region> {
        self.list.get(&start)
    }

    /// Returns the region that wholly contains `len` bytes at `address` (`mm_iommu_lookup`).
    fn containing(&self, address: u64, len: u64) -> Option<&Region> {
        let (_, region) = self.list.range(..=address).next_back()?;
        (address.checked_add(len)? <= region.range.end).then_some(region)
    }

    /// Pins and adds a region (`mm_iommu_new`). A positive result is the page count of a chunk that
    /// was only partly pinned.
    pub(super) fn add(
        &mut self,
        process: &mut Process,
        range: Range<u64>,
        violations: &mut Vec<Violation>,
    ) -> Result<i32, Errno> {
        let shift = process.page.get();
        let count = (range.end - range.start) >> shift;
        process.locked.charge(count)?;
        match self.pin(process, &range, count, violations) {
            Ok((user, pages)) => {
                let page_shift = page_shift(&range, &pages, shift);
                self.serial += 1;
                let serial = self.serial;
                let region = Region { user, range: range.clone(), page_shift, pages, used: 1, mapped: 1, serial };
                self.list.insert(range.start, region);
                Ok(0)
            }
            Err(failed) => {
                process.locked.uncharge(count);
                failed
            }
        }
    }

    fn pin(
        &self,
        process: &Process,
        range: &Range<u64>,
        count: u64,
        violations: &mut Vec<Violation>,
    ) -> Result<(UserRange, Vec<Stretch>), Result<i32, Errno>> {
        if count == 0 {
            violations.push(Violation::EmptyRegister);
        }
        let user = UserRange::new(UserAddr(range.start), range.end - range.start);
        let Some(user) = user.ok().filter(|_| count <= MAX_PAGES) else { return Err(Err(Errno::ENOMEM)) };
        let (pages, bad) = process.pin(range.clone());
        if let Some(bad) = bad {
            let in_chunk = ((bad - range.start) >> process.page.get()) % PIN_CHUNK;
            return Err(if in_chunk == 0 { Err(Errno::EFAULT) } else { Ok(in_chunk as i32) });
        }
        // Checked only now, as in the kernel, which finds a hole before an overlap.
        let before = self.list.range(..range.end).next_back();
        if before.is_some_and(|(_, region)| region.range.end > range.start) {
            return Err(Err(Errno::EINVAL));
        }
        Ok((user, pages))
    }

    /// Drops one use (`mm_iommu_put`): the last one frees the region unless TCEs point there.
    pub(super) fn put(&mut self, process: &mut Process, start: u64) -> PutResult {
        let Some(region) = self.list.get_mut(&start) else { return PutResult::Done };
        region.used = region.used.saturating_sub(1);
        if region.used != 0 {
            return PutResult::Done;
        }
        if region.mapped != 1 {
            region.used = 1;
            return PutResult::Busy;
        }
        if let Some(region) = self.list.remove(&start) {
            process.locked.uncharge((region.range.end - region.range.start) >> process.page.get());
            process.unpin(&region.pages);
        }
        PutResult::Done
    }

    /// Returns which pages of a stretch of user memory are backed by regions, and at which page of
    /// the call it ends with which error.
    pub(super) fn resolve(&self, user: u64, count: u64, shift: u32) -> (Vec<Segment>, Option<(u64, Errno)>) {
        let page = 1u64 << shift;
        let mut segments = Vec::new();
        let mut index = 0;
        while index < count {
            // Neither product nor sum overflows while the address lies in a region; past it there
            // is none.
            let found = index.checked_mul(page).and_then(|offset| user.checked_add(offset));
            let Some((at, region)) = found.and_then(|at| Some((at, self.containing(at, page)?))) else {
                return (segments, Some((index, Errno::EINVAL)));
            };
            let Some((run, pages)) = region.at(at).filter(|_| region.page_shift >= shift) else {
                return (segments, Some((index, Errno::EINVAL)));
            };
            if pages.compound.get() < shift {
                return (segments, Some((index, Errno::EPERM)));
            }
            let in_region = (region.range.end - at) >> shift;
            let in_run = (run.end - at).div_ceil(page);
            let take = in_region.min(in_run).min(count - index);
            segments.push(Segment { index, count: take, user: at, delta: pages.delta });
            index += take;
        }
        (segments, None)
    }

    /// Counts TCEs that now point to `count` pages at `user`.
    pub(super) fn map(&mut self, user: u64, count: u64, shift: u32) {
        self.each(user, count, shift, |region, pages| region.mapped = region.mapped.saturating_add(pages));
    }

    /// Counts TCEs that no longer point there; never below 1 (`mm_iommu_mapped_dec`).
    pub(super) fn unmap(&mut self, user: u64, count: u64, shift: u32) {
        self.each(user, count, shift, |region, pages| region.mapped = region.mapped.saturating_sub(pages).max(1));
    }

    fn each(&mut self, user: u64, count: u64, shift: u32, mut what: impl FnMut(&mut Region, u64)) {
        let page = 1u64 << shift;
        let end = user.saturating_add(count.saturating_mul(page));
        let mut at = user;
        while at < end {
            let Some(start) = self.containing(at, page).map(|region| region.range.start) else {
                // Not in a region, or no longer: skip to the next one, in whole pages.
                let Some((next, _)) = self.list.range(at.saturating_add(1)..end).next() else { return };
                at += (next - at).div_ceil(page) * page;
                continue;
            };
            let Some(region) = self.list.get_mut(&start) else { return };
            let pages = ((region.range.end - at) >> shift).min((end - at) >> shift);
            what(region, pages);
            at += pages * page;
        }
    }

    /// Returns the pages in a range of user memory that regions hold.
    pub(super) fn held(&self, range: &Range<u64>) -> Vec<Stretch> {
        let overlapping = self.list.values().filter(|r| r.range.start < range.end && range.start < r.range.end);
        overlapping.flat_map(|region| region.pages.iter().cloned()).collect()
    }
}

/// Returns the largest IOMMU page for a region (`mm_iommu_do_alloc`). As in the kernel, small pages
/// after the first huge page do not lower the value.
fn page_shift(range: &Range<u64>, pages: &[Stretch], host: u32) -> u32 {
    let mut shift = (range.start | (range.end - range.start)).trailing_zeros();
    let mut seen = host;
    for (_, pages) in pages {
        if shift > host && pages.page.get() > host {
            seen = pages.page.get();
        }
        shift = shift.min(seen);
    }
    shift
}
