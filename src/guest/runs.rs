//! TCEs: what one says, runs of those that continue each other, and the map requests they make.

use super::error::HcallError;
use super::memory::{GuestMemory, Slot};
use super::ram::{SlotLookup, Snapshot};
use crate::addr::{GuestAddr, IovaRange, PageShift, UserAddr};
use crate::permission::Permission;
use crate::space::MapRequest;
use crate::uapi::papr::tce::{READ, WRITE};

const RIGHTS: u64 = READ | WRITE;

/// Returns what a device may do by this TCE; `None` for nothing, in which case the guest may use
/// the other bits freely.
pub(super) fn permission(tce: u64) -> Option<Permission> {
    Permission::from_bits((tce & RIGHTS) as u32)
}

/// Returns the guest page it leads to; `None` if it is not aligned to the table's page.
#[inline]
pub(super) fn address(tce: u64, page: PageShift) -> Option<GuestAddr> {
    let address = tce & !RIGHTS;
    (address & page.mask() == 0).then_some(GuestAddr(address))
}

/// TCEs that continue each other: each leads to the page after the previous one, or all are one
/// value without rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Index of its first TCE in the table.
    pub first: u64,
    /// Number of TCEs.
    pub count: u64,
    /// Its first TCE.
    pub tce: u64,
}

impl Run {
    /// Returns whether it maps, or only clears.
    pub(super) fn maps(&self) -> bool {
        permission(self.tce).is_some()
    }

    /// Returns the difference between one TCE and the next.
    pub(super) fn step(&self, page: PageShift) -> u64 {
        if self.maps() { page.bytes() } else { 0 }
    }
}

/// Splits `values`, the first of which has the index `first` in the table, after their first run.
#[inline]
fn split_run(first: u64, values: &[u64], page: PageShift) -> Option<(Run, &[u64])> {
    let (&tce, after) = values.split_first()?;
    let mut run = Run { first, count: 1, tce };
    let step = run.step(page);
    let more = continuing(after, tce.wrapping_add(step), step);
    run.count += more as u64;
    Some((run, after.get(more..)?))
}

/// Iterates over the runs of `values`, the first of which has the index `first` in the table.
pub(super) fn runs(first: u64, values: &[u64], page: PageShift) -> impl Iterator<Item = Run> + '_ {
    let (mut first, mut rest) = (first, values);
    core::iter::from_fn(move || {
        let (run, after) = split_run(first, rest, page)?;
        (first, rest) = (first + run.count, after);
        Some(run)
    })
}

/// Counts the values that continue from `next` in such steps. Compares eight at a time, without a
/// branch for each.
fn continuing(values: &[u64], next: u64, step: u64) -> usize {
    if values.first() != Some(&next) {
        return 0;
    }
    let expected = |at: usize| (at as u64..).map(move |n| next.wrapping_add(n.wrapping_mul(step)));
    let (eights, tail) = values.as_chunks::<8>();
    let differ = |(at, eight): (usize, &[u64; 8])| {
        eight.iter().zip(expected(8 * at)).fold(0, |differ, (value, expected)| differ | (value ^ expected)) != 0
    };
    let whole = eights.iter().enumerate().take_while(|eight| !differ(*eight)).count();
    let rest = eights.get(whole).map_or(tail, |eight| eight.as_slice());
    8 * whole + rest.iter().zip(expected(8 * whole)).take_while(|(value, expected)| *value == expected).count()
}

/// Guest pages and where they lie in user memory. Neighbours usually share a slot, so the last one
/// is tried first.
pub(super) struct Pages<'a> {
    ram: &'a Snapshot,
    slot: Option<Slot>,
    including_unplugging: bool,
    /// Confirms that the VMM still has a slot.
    memory: Option<&'a dyn GuestMemory>,
}

impl<'a> Pages<'a> {
    /// Creates it for the slots of a snapshot, except those that are being removed.
    pub(super) fn new(ram: &'a Snapshot) -> Self {
        Self { ram, slot: None, including_unplugging: false, memory: None }
    }

    /// Returns the snapshot.
    pub(super) fn ram(&self) -> &'a Snapshot {
        self.ram
    }

    /// Excludes slots that the VMM no longer has.
    pub(super) fn present_in(self, memory: &'a dyn GuestMemory) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// Includes RAM that is being removed or that the VMM took away: it may still be mapped.
    pub(super) fn including_unplugging(&self) -> Self {
        Self { including_unplugging: true, slot: None, memory: None, ..*self }
    }

    fn slot(&mut self, at: GuestAddr) -> Result<Slot, HcallError> {
        if let Some(slot) = self.slot.filter(|slot| slot.guest.contains(at)) {
            return Ok(slot);
        }
        let found = self.ram.find(at);
        if let (SlotLookup::Slot(slot) | SlotLookup::Unplugging(slot), Some(memory)) = (found, self.memory)
            && !memory.has(&slot)
        {
            return Err(HcallError::Gone { at, slot: slot.guest });
        }
        match found {
            SlotLookup::Slot(slot) => {
                self.slot = Some(slot);
                Ok(slot)
            }
            SlotLookup::Unplugging(slot) if self.including_unplugging => {
                self.slot = Some(slot);
                Ok(slot)
            }
            SlotLookup::Unplugging(slot) => Err(HcallError::Unplugging { at, slot: slot.guest }),
            SlotLookup::Nowhere => Err(HcallError::NotRam { at }),
        }
    }

    /// Checks that everything the values lead to is RAM. Looks at most values once: in the first
    /// run or in the search for one that is not in the slot of the first.
    pub(super) fn check_list(&mut self, values: &[u64], page: PageShift) -> Result<(), HcallError> {
        match split_run(0, values, page) {
            Some((run, [])) => self.check(&run, page),
            _ if self.in_one_slot(values, page) => Ok(()),
            // Several slots, or the error must name the first mistake.
            _ => runs(0, values, page).try_for_each(|run| self.check(&run, page)),
        }
    }

    /// Returns whether all values lead to pages of one slot, or give no rights, as in most lists.
    /// No branch for each value.
    fn in_one_slot(&mut self, values: &[u64], page: PageShift) -> bool {
        let Some(first) = values.iter().find(|tce| permission(**tce).is_some()) else { return true };
        let found = address(*first, page).and_then(|at| self.slot(at).ok());
        let Some(slot) = found else { return false };
        // Largest offset from the slot's start at which a page may begin.
        let room = slot.guest.len().checked_sub(page.bytes()).filter(|room| room >> 63 == 0);
        let Some(room) = room else { return false };
        let (start, below) = (slot.guest.start().0, page.mask() & !RIGHTS);
        let wrong = values.iter().fold(0, |wrong, tce| {
            let offset = (tce & !RIGHTS).wrapping_sub(start);
            // The top bit is set if the offset is more than `room`, whose own top bit is clear.
            let outside = (room.wrapping_sub(offset) | offset) >> 63;
            let counts = 0_u64.wrapping_sub((tce | tce >> 1) & 1);
            wrong | (counts & (outside | (tce & below)))
        });
        wrong == 0
    }

    /// Checks that everything a run leads to is RAM.
    pub(super) fn check(&mut self, run: &Run, page: PageShift) -> Result<(), HcallError> {
        self.parts(run, page, |_, _| Ok(()))
    }

    /// Checks that everything a run leads to is RAM, and passes the user memory to `part`, piece by
    /// piece, with its length.
    fn parts(
        &mut self,
        run: &Run,
        page: PageShift,
        mut part: impl FnMut(UserAddr, u64) -> Result<(), HcallError>,
    ) -> Result<(), HcallError> {
        if !run.maps() {
            return Ok(());
        }
        let mut at = address(run.tce, page).ok_or(HcallError::TceMisaligned { tce: run.tce, page })?;
        let mut left = run.count << page.get();
        // Most values lie in the slot of the previous one.
        if let Some(slot) = self.slot
            && slot.guest.contains(at)
            && left <= slot.guest.end().0 - at.0
        {
            return part(slot.user(at), left);
        }
        // A run that wraps leaves its slot first, and no slot follows.
        while left != 0 {
            let slot = self.slot(at)?;
            let len = left.min(slot.guest.end().0 - at.0);
            part(slot.user(at), len)?;
            left -= len;
            at = GuestAddr(at.0 + len);
        }
        Ok(())
    }
}

/// Map requests, as few as possible.
#[derive(Debug, Default)]
pub(super) struct Requests(Vec<MapRequest>);

impl Requests {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn as_slice(&self) -> &[MapRequest] {
        &self.0
    }

    pub(super) fn into_vec(self) -> Vec<MapRequest> {
        self.0
    }

    /// Adds the memory that a run at `iova` leads to; nothing for a run without rights.
    pub(super) fn add(
        &mut self,
        run: &Run,
        iova: IovaRange,
        page: PageShift,
        pages: &mut Pages<'_>,
    ) -> Result<(), HcallError> {
        let Some(permission) = permission(run.tce) else { return Ok(()) };
        let mut offset = 0;
        pages.parts(run, page, |user, len| {
            let outside = || HcallError::Outside { ioba: iova.start(), count: run.count, window: iova };
            let iova = iova.subrange(offset, len).ok_or_else(outside)?;
            offset += len;
            match self.0.last_mut() {
                Some(last)
                    if last.iova.end() == iova.start()
                        && last.user.0.checked_add(last.iova.len()) == Some(user.0)
                        && last.permission == permission =>
                {
                    last.iova = last.iova.hull(&iova);
                }
                _ => self.0.push(MapRequest { iova, user, permission }),
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_pages_in_order_with_the_same_rights_or_one_value_without() {
        let values = [0x1003, 0x2003, 0x3001, 0x4001, 0, 0, 4, 4, 0x9003];
        let found: Vec<_> = runs(0, &values, PageShift::P4K).map(|run| (run.first, run.count, run.tce)).collect();
        assert_eq!(found, [(0, 2, 0x1003), (2, 2, 0x3001), (4, 2, 0), (6, 2, 4), (8, 1, 0x9003)]);
        let long: Vec<u64> = (1..=40).map(|n| n << 12 | 3).chain([0x29005]).collect();
        let found: Vec<_> = runs(5, &long, PageShift::P4K).map(|run| (run.first, run.count)).collect();
        assert_eq!(found, [(5, 40), (45, 1)]);
        assert_eq!(runs(0, &[], PageShift::P4K).count(), 0);
        assert_eq!(runs(0, &[u64::MAX, u64::MAX.wrapping_add(0x1000)], PageShift::P4K).count(), 1);
    }
}
