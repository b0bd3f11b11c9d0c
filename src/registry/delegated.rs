//! How much of each region is pinned, by space: counted under the registry's lock, or delegated to
//! a slot of the space's own (`pins`).

use super::pins::{Generation, Pinnable, Pinner, PinnerId, SLOTS, Slots};
use super::regions::{Region, RegionId, Regions};
use crate::addr::UserRange;
use std::sync::Arc;

/// The pins of one space in one region.
#[derive(Debug)]
pub(super) struct Pins {
    space: PinnerId,
    /// The slot in which the space counts them.
    slot: Option<u8>,
    /// Bytes, if they have no slot.
    bytes: u64,
}

/// A space that pins.
#[derive(Debug)]
pub(super) struct PinningSpace {
    slots: Arc<Slots>,
    /// The region of each slot.
    regions: [Option<RegionId>; SLOTS],
}

impl Regions {
    /// Returns the bytes of bus addresses that point into a region.
    pub(super) fn mapped(&self, region: &Region) -> u64 {
        region.pins.iter().map(|pins| self.bytes(pins)).fold(0, u64::saturating_add)
    }

    fn bytes(&self, pins: &Pins) -> u64 {
        let space = self.spaces.get(pins.space.0 as usize);
        space.zip(pins.slot).map_or(pins.bytes, |(space, slot)| space.slots.get(slot.into()))
    }

    /// Returns the generation of leases.
    pub(super) fn generation(&self) -> &Generation {
        &self.generation
    }

    /// Counts bytes of a space's bus addresses that point into a region.
    pub(super) fn pin(&mut self, pinner: &mut Pinner, id: RegionId, bytes: u64) {
        let space = *pinner.id.get_or_insert_with(|| self.add_space(&pinner.slots));
        self.change(space, id, |pinned| pinned.saturating_add(bytes));
    }

    /// Counts bytes of a space that no longer point into a region.
    pub(super) fn unpin(&mut self, pinner: &Pinner, id: RegionId, bytes: u64) {
        if let Some(space) = pinner.id {
            self.change(space, id, |pinned| pinned.saturating_sub(bytes));
        }
        self.queue_if_idle(id);
    }

    /// Lets a space count its pins in a region itself. `user` is memory of the region that it has
    /// pinned.
    pub(super) fn delegate(&mut self, pinner: &mut Pinner, id: RegionId, user: UserRange) {
        let Some(space) = pinner.id else { return };
        let Some((stretch, region, max_iommu_page)) = self.leased_at(user.start()).filter(|&(_, at, _)| at == id)
        else {
            return;
        };
        let slot = pinner.choose(id);
        let Some(entry) = self.spaces.get_mut(space.0 as usize) else { return };
        if let Some(previous) = entry.regions[slot].replace(id).filter(|&previous| previous != id) {
            self.give_up_slot(pinner, space, previous);
        }
        self.take_slot(pinner, space, slot, Pinnable { region, stretch, max_iommu_page });
    }

    /// Moves a space's count of a region from its slot.
    fn give_up_slot(&mut self, pinner: &Pinner, space: PinnerId, id: RegionId) {
        let Some(region) = self.regions.get_mut(id.index()) else { return };
        let Some(at) = region.pins.iter().position(|pins| pins.space == space) else { return };
        if let Some(slot) = region.pins[at].slot.take() {
            region.pins[at].bytes = pinner.slots.get(slot.into());
            if region.pins[at].bytes == 0 {
                without(&mut region.pins, space);
            }
        }
    }

    /// Moves a space's count of a region to a slot.
    fn take_slot(&mut self, pinner: &mut Pinner, space: PinnerId, slot: usize, pinnable: Pinnable) {
        let Some(region) = self.regions.get_mut(pinnable.region.index()) else { return };
        let Some(pins) = region.pins.iter_mut().find(|pins| pins.space == space) else { return };
        if pins.slot.is_none() {
            pinner.slots.set(slot, pins.bytes);
            pins.slot = Some(slot as u8);
        }
        pinner.learn(slot, pinnable, &self.generation);
    }

    fn add_space(&mut self, slots: &Arc<Slots>) -> PinnerId {
        let space = PinningSpace { slots: Arc::clone(slots), regions: [None; SLOTS] };
        PinnerId(self.spaces.insert(space) as u32)
    }

    /// Removes a space that pins nothing any longer.
    pub(super) fn remove_space(&mut self, pinner: &mut Pinner) {
        let Some(space) = pinner.id else { return };
        if let Some(gone) = self.spaces.try_remove(space.0 as usize) {
            for id in gone.regions.into_iter().flatten() {
                if let Some(region) = self.get_mut(id) {
                    without(&mut region.pins, space);
                }
            }
        }
        *pinner = Pinner::default();
    }

    /// Changes a space's count of a region.
    fn change(&mut self, space: PinnerId, id: RegionId, change: impl Fn(u64) -> u64) {
        let Some(region) = self.regions.get_mut(id.index()) else { return };
        let Some(at) = region.pins.iter().position(|pins| pins.space == space) else {
            let bytes = change(0);
            if bytes != 0 {
                let others = std::mem::take(&mut region.pins).into_iter();
                region.pins = others.chain([Pins { space, slot: None, bytes }]).collect();
            }
            return;
        };
        let pins = &mut region.pins[at];
        match self.spaces.get(space.0 as usize).zip(pins.slot) {
            Some((space, slot)) => space.slots.set(slot.into(), change(space.slots.get(slot.into()))),
            None => {
                pins.bytes = change(pins.bytes);
                if pins.bytes == 0 {
                    without(&mut region.pins, space);
                }
            }
        }
    }

    /// Frees the slots of a region that is removed. They count nothing.
    pub(super) fn free_slots(&mut self, region: &Region) {
        for Pins { space, slot, .. } in &region.pins {
            if let (Some(space), Some(slot)) = (self.spaces.get_mut(space.0 as usize), *slot) {
                space.regions[usize::from(slot)] = None;
            }
        }
    }
}

/// Removes the pins of a space in a region.
fn without(pins: &mut Box<[Pins]>, space: PinnerId) {
    *pins = std::mem::take(pins).into_iter().filter(|pins| pins.space != space).collect();
}

#[cfg(test)]
mod tests {
    use super::super::regions::Part;
    use super::*;
    use crate::addr::{PageShift, UserAddr};

    const SIZE: u64 = 0x10_0000;
    const PAGE: PageShift = PageShift::P64K;

    /// Regions of a page each, all leased, with one page of each pinned by a space.
    fn pinned(count: u64) -> (Regions, Pinner, Vec<(RegionId, UserRange)>) {
        let (mut regions, mut pinner) = (Regions::default(), Pinner::default());
        let region = |number| {
            let range = UserRange::new(UserAddr((2 * number + 2) * SIZE), SIZE).unwrap();
            let id = regions.insert(range, PAGE, Vec::new());
            regions.add_lease(range);
            regions.pin(&mut pinner, id, PAGE.bytes());
            regions.delegate(&mut pinner, id, range);
            (id, range)
        };
        let all = (0..count).map(region).collect();
        (regions, pinner, all)
    }

    #[test]
    fn a_region_that_nothing_maps_takes_little() {
        assert!(size_of::<Region>() <= 64);
    }

    fn mapped(regions: &Regions) -> Vec<u64> {
        regions.status().iter().map(|region| region.mapped).collect()
    }

    #[test]
    fn pins_without_the_lock_are_seen_under_it_whatever_slots_there_are() {
        let (mut regions, mut pinner, all) = pinned(2 * SLOTS as u64);
        assert_eq!(mapped(&regions), vec![PAGE.bytes(); 2 * SLOTS]);
        let generation = regions.generation().clone();
        let free: Vec<_> = all.iter().map(|&(_, range)| pinner.pin_one(&generation, range, PAGE)).collect();
        // The first have lost their slots to the last.
        let expected = all.iter().enumerate().map(|(at, &(id, _))| (at >= SLOTS).then_some(id));
        assert_eq!(free, expected.collect::<Vec<_>>());
        let twice = |at: usize| PAGE.bytes() + if at < SLOTS { 0 } else { SIZE };
        assert_eq!(mapped(&regions), (0..2 * SLOTS).map(twice).collect::<Vec<_>>());
        // Back to slots for the first, then everything is unpinned.
        for &(id, range) in &all[..SLOTS] {
            regions.delegate(&mut pinner, id, range);
        }
        assert_eq!(mapped(&regions), (0..2 * SLOTS).map(twice).collect::<Vec<_>>());
        for (at, &(id, _)) in all.iter().enumerate() {
            assert!(!pinner.unpin([(id, twice(at))].into_iter()), "the last pin goes under the lock");
            regions.unpin(&pinner, id, twice(at));
        }
        assert_eq!(mapped(&regions), vec![0; 2 * SLOTS]);
    }

    #[test]
    fn nothing_is_pinned_without_the_lock_after_a_lease_has_ended() {
        let (mut regions, mut pinner, all) = pinned(2);
        let generation = regions.generation().clone();
        let [(first, range), (second, other)] = all[..] else { panic!("two") };
        regions.begin_release(range);
        regions.finish_release(range);
        assert_eq!(pinner.pin_one(&generation, range, PAGE), None);
        let mut parts: Vec<Part> = Vec::new();
        assert!(!pinner.pin(&generation, [(range, PAGE)].into_iter(), &mut parts));
        // The other must be looked at again too.
        assert_eq!(pinner.pin_one(&generation, other, PAGE), None);
        regions.delegate(&mut pinner, second, other);
        assert_eq!(pinner.pin_one(&generation, other, PAGE), Some(second));
        // It is not leased, so it is not pinned either.
        regions.delegate(&mut pinner, first, range);
        assert_eq!(pinner.pin_one(&generation, range, PAGE), None);
        assert!(regions.take_idle().is_none(), "it is mapped");
        regions.unpin(&pinner, first, PAGE.bytes());
        assert_eq!(regions.take_idle().map(|idle| idle.region.range), Some(range));
    }

    #[test]
    fn nothing_is_pinned_without_the_lock_where_nothing_is_pinned_or_containers_changed() {
        let (mut regions, mut pinner, all) = pinned(1);
        let generation = regions.generation().clone();
        let (id, range) = all[0];
        let large = PageShift::P2M;
        assert_eq!(pinner.pin_one(&generation, range, large), None, "it cannot serve such pages");
        pinner.recheck();
        assert_eq!(pinner.pin_one(&generation, range, PAGE), None);
        // Unpinning goes on.
        assert!(pinner.unpin([(id, 1)].into_iter()));
        regions.delegate(&mut pinner, id, range);
        assert_eq!(pinner.pin_one(&generation, range, PAGE), Some(id));
        regions.unpin(&pinner, id, SIZE + PAGE.bytes() - 1);
        assert_eq!(pinner.pin_one(&generation, range, PAGE), None);
    }

    #[test]
    fn a_region_in_the_place_of_another_inherits_no_pins() {
        let (mut regions, mut pinner, all) = pinned(1);
        let generation = regions.generation().clone();
        let (id, range) = all[0];
        regions.unpin(&pinner, id, PAGE.bytes());
        regions.begin_release(range);
        regions.finish_release(range);
        assert!(regions.take_idle().is_some());
        assert_eq!(regions.insert(range, PAGE, Vec::new()), id, "numbers are used again");
        regions.add_lease(range);
        assert_eq!(pinner.pin_one(&generation, range, PAGE), None);
        assert!(!pinner.unpin([(id, 0)].into_iter()));
        regions.pin(&mut pinner, id, 1);
        regions.delegate(&mut pinner, id, range);
        assert_eq!((pinner.pin_one(&generation, range, PAGE), mapped(&regions)), (Some(id), vec![SIZE + 1]));
        regions.unpin(&pinner, id, SIZE + 1);
        regions.remove_space(&mut pinner);
        assert!(regions.get(id).is_some_and(|region| region.pins.is_empty()) && regions.spaces.is_empty());
    }
}
