//! Runs of TCEs that continue each other, and the map requests they make.

use super::error::HcallError;
use super::memory::{GuestMemory, Slot};
use super::ram::{SlotLookup, Snapshot};
use super::tce;
use crate::addr::{GuestAddr, IovaRange, PageShift, UserAddr};
use crate::space::MapRequest;
use crate::uapi::papr::tce::{READ, WRITE};

const RIGHTS: u64 = READ | WRITE;

/// Values that continue each other: each leads to the page after the previous one, or all are one
/// value without rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Index of its first value.
    pub first: u64,
    /// Number of values.
    pub count: u64,
    /// Its first value.
    pub tce: u64,
}

/// Iterates over the runs of `values`.
pub(super) fn runs(values: &[u64], page: PageShift) -> impl Iterator<Item = Run> + '_ {
    let mut at = 0;
    core::iter::from_fn(move || {
        let rest = values.get(at..)?;
        let (&tce, rest) = rest.split_first()?;
        let step = if tce::permission(tce).is_some() { page.bytes() } else { 0 };
        let count = 1 + continuing(rest, tce.wrapping_add(step), step);
        let first = at as u64;
        at += count;
        Some(Run { first, count: count as u64, tce })
    })
}

/// Counts the values that continue from `next` in such steps. Compares eight at a time, without a
/// branch for each.
fn continuing(values: &[u64], mut next: u64, step: u64) -> usize {
    if values.first() != Some(&next) {
        return 0;
    }
    let (eights, _) = values.as_chunks::<8>();
    let mut count = 0;
    for eight in eights {
        let expected = (0..).map(|n: u64| next.wrapping_add(n.wrapping_mul(step)));
        if eight.iter().zip(expected).fold(0, |differ, (value, expected)| differ | (value ^ expected)) != 0 {
            break;
        }
        next = next.wrapping_add(step.wrapping_mul(8));
        count += 8;
    }
    for &value in values.get(count..).unwrap_or_default() {
        if value != next {
            break;
        }
        next = next.wrapping_add(step);
        count += 1;
    }
    count
}

/// Guest pages and where they lie in user memory. Neighbours usually share a slot, so the last one
/// is tried first.
pub(super) struct Pages<'a> {
    ram: &'a Snapshot,
    slot: Option<Slot>,
    including_unplugging: bool,
    /// Asked whether a slot is there still.
    memory: Option<&'a dyn GuestMemory>,
}

impl<'a> Pages<'a> {
    pub(super) fn new(ram: &'a Snapshot) -> Self {
        Self { ram, slot: None, including_unplugging: false, memory: None }
    }

    /// Only those in slots that the VMM has still.
    pub(super) fn present_in(self, memory: &'a dyn GuestMemory) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// Those in RAM that is being removed as well, or that the VMM took away: they may be mapped
    /// still.
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

    /// Checks that everything the values lead to is RAM.
    pub(super) fn check_all(&mut self, values: &[u64], page: PageShift) -> Result<(), HcallError> {
        match runs(values, page).next() {
            Some(run) if run.count == values.len() as u64 => self.check(&run, page, |_, _| {}),
            _ if self.in_one_slot(values, page) => Ok(()),
            _ => runs(values, page).try_for_each(|run| self.check(&run, page, |_, _| {})),
        }
    }

    /// Returns whether all values lead to pages of one slot, or give no rights, as in most lists.
    /// No branch for each value.
    fn in_one_slot(&mut self, values: &[u64], page: PageShift) -> bool {
        let Some(first) = values.iter().find(|tce| tce::permission(**tce).is_some()) else { return true };
        let found = tce::address(*first, page).and_then(|at| self.slot(at).ok());
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

    /// Checks that everything a run leads to is RAM. Passes the user memory to `part`, piece by
    /// piece, with its length.
    pub(super) fn check(
        &mut self,
        run: &Run,
        page: PageShift,
        mut part: impl FnMut(UserAddr, u64),
    ) -> Result<(), HcallError> {
        if tce::permission(run.tce).is_none() {
            return Ok(());
        }
        let start = tce::address(run.tce, page).ok_or(HcallError::TceMisaligned { tce: run.tce, page })?;
        let mut at = start;
        // Most values lie in the slot of the previous one.
        if let Some(slot) = self.slot
            && slot.guest.contains(at)
            && run.count << page.get() <= slot.guest.end().0 - at.0
        {
            part(slot.user(at), run.count << page.get());
            return Ok(());
        }
        // A run that wraps leaves its slot first, and no slot follows.
        let mut left = run.count << page.get();
        while left != 0 {
            let slot = self.slot(at)?;
            let len = left.min(slot.guest.end().0 - at.0);
            part(slot.user(at), len);
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

    pub(super) fn get(&self) -> &[MapRequest] {
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
        let Some(permission) = tce::permission(run.tce) else { return Ok(()) };
        let mut at = iova.start();
        pages.check(run, page, |user, len| {
            let Ok(iova) = IovaRange::new(at, len) else { return };
            at = iova.end();
            let last = self.0.last_mut().filter(|last| {
                last.iova.end() == iova.start()
                    && last.user.0.checked_add(last.iova.len()) == Some(user.0)
                    && last.permission == permission
            });
            match (last.as_ref()).and_then(|last| IovaRange::between(last.iova.start(), iova.end())).zip(last) {
                Some((joined, last)) => last.iova = joined,
                None => self.0.push(MapRequest { iova, user, permission }),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_pages_in_order_with_the_same_rights_or_one_value_without() {
        let values = [0x1003, 0x2003, 0x3001, 0x4001, 0, 0, 4, 4, 0x9003];
        let found: Vec<_> = runs(&values, PageShift::P4K).map(|run| (run.first, run.count, run.tce)).collect();
        assert_eq!(found, [(0, 2, 0x1003), (2, 2, 0x3001), (4, 2, 0), (6, 2, 4), (8, 1, 0x9003)]);
        let long: Vec<u64> = (1..=40).map(|n| n << 12 | 3).chain([0x29005]).collect();
        let found: Vec<_> = runs(&long, PageShift::P4K).map(|run| (run.first, run.count)).collect();
        assert_eq!(found, [(0, 40), (40, 1)]);
        assert_eq!(runs(&[], PageShift::P4K).count(), 0);
        assert_eq!(runs(&[u64::MAX, u64::MAX.wrapping_add(0x1000)], PageShift::P4K).count(), 1);
    }
}
