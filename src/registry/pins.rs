//! Pins of one address space, most of them counted without a lock.
//!
//! A region stays as it is while something in it is pinned. So a space that has already pinned part
//! of a region may pin more of it, or unpin less than it has pinned there, without asking anybody:
//! it counts in a slot of its own. The registry reads the slots, under its lock. Only the first pin
//! of a space in a region and the last one are counted under that lock too, so a region that looks
//! unpinned there is unpinned.
//!
//! A slot is good for one leased stretch, until any lease ends: each end starts a new generation.
//! A release starts it before it asks the spaces what they map, and they answer under their own
//! locks. A space that maps by the old generation therefore does so before it answers.

use super::regions::{Part, RegionId};
use crate::addr::{PageShift, UserRange};
use crate::stats::Padded;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Number of regions whose pins a space counts itself. Others are counted under the lock.
pub(super) const SLOTS: usize = 4;

/// Counts the ends of leases.
#[derive(Clone, Debug, Default)]
pub(super) struct Generation(Arc<Padded<AtomicU64>>);

impl Generation {
    /// Reads it without a lock.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Acquire)
    }

    /// Starts a new one; the caller holds the lock.
    pub(super) fn advance(&self) {
        self.0.store(self.0.load(Relaxed) + 1, Release);
    }
}

/// Bytes that one space has pinned, by slot. Only the space changes them.
#[derive(Debug, Default)]
pub(super) struct Slots(Padded<[AtomicU64; SLOTS]>);

impl Slots {
    pub(super) fn get(&self, slot: usize) -> u64 {
        self.0.get(slot).map_or(0, |bytes| bytes.load(Relaxed))
    }

    pub(super) fn set(&self, slot: usize, bytes: u64) {
        if let Some(count) = self.0.get(slot) {
            count.store(bytes, Relaxed);
        }
    }
}

/// Identifies a space among those that pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PinnerId(pub(super) u32);

/// A leased stretch of a region that has a slot.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pinnable {
    pub region: RegionId,
    /// Leased throughout.
    pub stretch: UserRange,
    /// Largest IOMMU page the region can serve.
    pub max_iommu_page: PageShift,
}

/// A slot's region.
#[derive(Clone, Copy, Debug)]
struct Known {
    region: RegionId,
    /// What can be pinned without a lock in this generation, if anything.
    pinnable: Option<(Pinnable, u64)>,
}

/// The pins of one address space. The space's own lock guards it.
#[derive(Debug, Default)]
pub(crate) struct Pinner {
    /// `None` while nothing was pinned.
    pub(super) id: Option<PinnerId>,
    pub(super) slots: Arc<Slots>,
    /// What each slot counts. A slot that counts nothing may have been taken from its region.
    known: [Option<Known>; SLOTS],
    /// The slot used last.
    last: usize,
}

impl Pinner {
    /// Finds the slot of a region, the one used last first.
    fn slot_of(&self, region: RegionId) -> Option<usize> {
        let is_its = |slot: &usize| self.known[*slot].is_some_and(|known| known.region == region);
        [self.last].into_iter().chain(0..SLOTS).find(is_its)
    }

    /// Finds the slot in which `user` can be pinned without a lock for a map with IOMMU pages of
    /// `page`: it is leased, and more of the region is pinned.
    #[inline]
    fn usable(&self, generation: &Generation, user: UserRange, page: PageShift) -> Option<(usize, Pinnable)> {
        let holds = |slot: usize| {
            let (pinnable, since) = self.known[slot]?.pinnable?;
            pinnable.stretch.contains_range(&user).then_some((slot, pinnable, since))
        };
        let (slot, pinnable, since) = holds(self.last).or_else(|| (0..SLOTS).find_map(holds))?;
        let usable = self.slots.get(slot) > 0 && page <= pinnable.max_iommu_page && since == generation.get();
        usable.then_some((slot, pinnable))
    }

    /// Pins `user` without a lock, if that suffices. Returns its region.
    #[inline]
    pub(super) fn pin_one(&mut self, generation: &Generation, user: UserRange, page: PageShift) -> Option<RegionId> {
        let (slot, pinnable) = self.usable(generation, user, page)?;
        self.last = slot;
        self.slots.set(slot, self.slots.get(slot) + user.len());
        Some(pinnable.region)
    }

    /// Pins `wanted` without a lock, if all of it lies in one leased stretch and that suffices.
    /// Otherwise returns false; then `parts` holds anything.
    #[inline]
    pub(super) fn pin(
        &mut self,
        generation: &Generation,
        mut wanted: impl Iterator<Item = (UserRange, PageShift)>,
        parts: &mut Vec<Part>,
    ) -> bool {
        let Some((user, page)) = wanted.next() else { return true };
        let Some((slot, Pinnable { region, stretch, max_iommu_page })) = self.usable(generation, user, page) else {
            return false;
        };
        parts.push(Part { region, user });
        let mut bytes = user.len();
        for (user, page) in wanted {
            if !stretch.contains_range(&user) || page > max_iommu_page {
                return false;
            }
            parts.push(Part { region, user });
            bytes += user.len();
        }
        self.last = slot;
        self.slots.set(slot, self.slots.get(slot) + bytes);
        true
    }

    /// Unpins parts of one region without a lock, if more of it stays pinned. Otherwise changes
    /// nothing and returns false.
    #[inline]
    pub(super) fn unpin(&mut self, mut parts: impl Iterator<Item = (RegionId, u64)>) -> bool {
        let Some((region, mut bytes)) = parts.next() else { return true };
        let Some(slot) = self.slot_of(region) else { return false };
        for (next, more) in parts {
            if next != region {
                return false;
            }
            bytes += more;
        }
        let pinned = self.slots.get(slot);
        if pinned <= bytes {
            return false;
        }
        self.slots.set(slot, pinned - bytes);
        true
    }

    /// Chooses a slot for a region: the one it has, one that counts nothing, or any.
    pub(super) fn choose(&self, region: RegionId) -> usize {
        let unused = || (0..SLOTS).find(|&slot| self.slots.get(slot) == 0);
        self.slot_of(region).or_else(unused).unwrap_or((self.last + 1) % SLOTS)
    }

    /// Remembers what a slot counts from now on.
    pub(super) fn learn(&mut self, slot: usize, pinnable: Pinnable, generation: &Generation) {
        self.known[slot] = Some(Known { region: pinnable.region, pinnable: Some((pinnable, generation.get())) });
        self.last = slot;
    }

    /// Has the registry look at each region again: the containers in which they must be registered
    /// have changed.
    pub(crate) fn recheck(&mut self) {
        self.known.iter_mut().flatten().for_each(|known| known.pinnable = None);
    }
}
