//! The expected contents of a guest's tables: a map of pages, and the architecture's rules, written
//! down one by one.

use super::fixture::{Outcome, Testbed};
use super::step::{Step, TOKENS};
use super::{HUGE, SLOTS, Setup};
use crate::guest_fixture::{BIG, BUID, LIOBN};
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::{AddMemoryError, DdwOffer, GuestMemory, PhbError};
use spapr_iommu::uapi::papr::hcall::{H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE};
use std::collections::{BTreeMap, BTreeSet};

const SUCCESS: i64 = 0;
const HARDWARE: i64 = -1;
const PARAMETER: i64 = -4;

/// A window and its TCEs, by bus page.
#[derive(Clone, Debug)]
pub struct Window {
    pub phb: usize,
    pub start: u64,
    pub len: u64,
    pub shift: u32,
    pub tces: BTreeMap<u64, u64>,
}

impl Window {
    /// Returns what a TCE leads to and allows: the page and bits 0 and 1.
    fn leads(tce: u64) -> Option<u64> {
        (tce & 3 != 0).then_some(tce & !3)
    }

    /// Returns the bus pages of `count` from `ioba` on, if all are in the window.
    fn pages(&self, ioba: u64, count: u64) -> Option<std::ops::Range<u64>> {
        let end = u128::from(ioba) + (u128::from(count) << self.shift);
        let inside = self.start <= ioba
            && ioba < self.start + self.len
            && end <= u128::from(self.start + self.len)
            && ioba.is_multiple_of(1 << self.shift);
        inside.then(|| (ioba >> self.shift)..(ioba >> self.shift) + count)
    }
}

pub struct Twin {
    /// Windows by LIOBN.
    pub windows: BTreeMap<u64, Window>,
    pub groups: [BTreeSet<u32>; 2],
    /// Plugged slots, and whether each is leaving.
    slots: BTreeMap<usize, bool>,
    setup: Setup,
    /// Whether huge pages were ever part of RAM: windows may have pages that other RAM cannot
    /// serve.
    huge: bool,
}

impl Twin {
    pub fn new(setup: &Setup) -> Self {
        let (windows, groups) = (BTreeMap::new(), Default::default());
        let mut twin = Self { windows, groups, slots: BTreeMap::new(), setup: *setup, huge: false };
        [0, 1].into_iter().for_each(|phb| twin.default_window(phb));
        twin
    }

    fn liobn(phb: usize) -> u64 {
        u64::from(LIOBN.0) + 0x10 * phb as u64
    }

    fn default_window(&mut self, phb: usize) {
        let window = Window { phb, start: 0, len: self.setup.default, shift: 12, tces: BTreeMap::new() };
        self.windows.insert(Self::liobn(phb), window);
    }

    /// Returns whether the host may have its own reason to refuse something of that PHB.
    fn may_fail(&self, phb: usize) -> bool {
        !self.groups[phb].is_empty() && (self.setup.memlock.is_some() || self.huge || self.setup.has_no_windows())
    }

    /// Returns whether all of it is RAM, and none of that leaving.
    fn is_ram(&self, start: u64, len: u64) -> bool {
        (0..len >> 12).all(|page| {
            let Some(at) = start.checked_add(page << 12) else { return false };
            let mut there = self.slots.iter().filter(|(_, leaving)| !**leaving).map(|(slot, _)| SLOTS[*slot]);
            there.any(|(start, len)| start <= at && at < start + len)
        })
    }

    /// Returns whether a TCE may be set in a table with such pages.
    fn is_right(&self, tce: u64, shift: u32) -> bool {
        Window::leads(tce).is_none_or(|to| to.is_multiple_of(1 << shift) && self.is_ram(to, 1 << shift))
    }

    /// Compares the result of a step with the expected one, and applies the step.
    pub fn follow(&mut self, testbed: &Testbed, step: &Step, outcome: Outcome) {
        match (step, outcome) {
            (Step::Hcall { number, args }, Outcome::Hcall { code, args: after }) => {
                let (expected, got) = self.hcall(testbed, *number, args, code);
                let code = code.filter(|code| *code != HARDWARE || expected != Some(SUCCESS)).or(expected);
                assert_eq!(code, expected, "{step:x?}");
                assert_eq!(after[0], got.unwrap_or(args[0]), "{step:x?}: r4");
                assert_eq!(after[1..4], args[1..], "{step:x?}");
            }
            (Step::Rtas { .. }, Outcome::Rtas { code, offers, head, args, rets }) => {
                let ours = head.as_deref().map(|head| TOKENS.call(head[0]).is_some());
                if ours == Some(false) {
                    assert_eq!(code, None, "{step:x?}");
                    return;
                }
                let cells =
                    head.as_deref().is_some_and(|head| head[2] != 0 && u64::from(head[1]) + u64::from(head[2]) <= 16);
                let (Some(head), Some(args), true) = (head, args, cells) else {
                    assert_eq!(code, Some(PARAMETER), "{step:x?}");
                    return;
                };
                assert_eq!(code, Some(if rets.is_some() { SUCCESS } else { PARAMETER }), "{step:x?}");
                let rets = rets.unwrap_or_default();
                let expected = self.rtas(testbed, head[0], &args, head[2], offers, rets.first().copied());
                // A number of TCEs that depends on the host is not known here.
                let same = rets.iter().zip(&expected).all(|(ret, expected)| expected.is_none_or(|cell| cell == *ret));
                assert!(
                    same && (rets.is_empty() || rets.len() == expected.len()),
                    "{step:x?}: {rets:x?} {expected:x?}"
                );
            }
            (Step::Translate { liobn, iova }, Outcome::Translated(found)) => {
                let window = self.windows.get(liobn);
                let expected = window.and_then(|window| {
                    let to = Window::leads(*window.tces.get(&(iova >> window.shift))?)?;
                    Some(to | (iova & ((1 << window.shift) - 1)))
                });
                assert_eq!(found.map(|found| found.guest.0), expected, "{step:x?}");
            }
            (&Step::Attach { phb, group }, Outcome::Group(result)) => self.attached(phb, group, result),
            (&Step::Detach { phb, group }, Outcome::Group(result)) => {
                assert_eq!(result.is_ok(), self.groups[phb].remove(&group), "{step:x?}: {result:?}");
            }
            (&Step::Plug { slot }, Outcome::Plugged(result)) => match result {
                Ok(()) => {
                    assert_eq!(self.slots.insert(slot, false), None);
                    self.huge |= slot == HUGE;
                }
                // Devices reach RAM through a window whose pages are larger than the new RAM's.
                Err(AddMemoryError::Page { page, .. }) => {
                    let large = |window: &Window| window.shift == page.get() && !self.groups[window.phb].is_empty();
                    assert!(self.windows.values().any(large), "{step:x?}: {result:?}");
                }
                Err(_) => assert!(self.setup.memlock.is_some(), "{step:x?}: {result:?}"),
            },
            (&Step::Unplug { slot }, Outcome::Unplugged(result)) => self.unplugged(slot, result),
            (Step::Keep { slot }, _) => {
                self.slots.entry(*slot).and_modify(|leaving| *leaving = false);
            }
            _ => {}
        }
    }

    /// Returns the code a hypercall should give, and the expected r4. Applies its changes if the
    /// guest got `H_SUCCESS`, or if the host had no reason to refuse.
    fn hcall(
        &mut self,
        testbed: &Testbed,
        number: u64,
        &[liobn, ioba, third, count]: &[u64; 4],
        code: Option<i64>,
    ) -> (Option<i64>, Option<u64>) {
        if ![H_GET_TCE, H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT].contains(&number) {
            return (None, None);
        }
        let wrong = (Some(PARAMETER), None);
        let count = if number == H_GET_TCE || number == H_PUT_TCE { 1 } else { count };
        let Some(window) = self.windows.get(&liobn) else { return wrong };
        let Some(pages) = window.pages(ioba, count) else { return wrong };
        let values = match number {
            H_GET_TCE => return (Some(SUCCESS), Some(window.tces.get(&pages.start).copied().unwrap_or(0))),
            H_PUT_TCE => vec![third],
            H_STUFF_TCE if third & 3 != 0 => return wrong,
            H_STUFF_TCE => vec![],
            _ => {
                let mut bytes = vec![0; (count.min(513) * 8) as usize];
                let read = testbed.fixture.slots.read(GuestAddr(third), &mut bytes);
                if count > 512 || third & 0xfff != 0 || read.is_err() {
                    return wrong;
                }
                bytes.chunks(8).map(|word| u64::from_be_bytes(word.try_into().unwrap())).collect()
            }
        };
        if !values.iter().all(|tce| self.is_right(*tce, window.shift)) {
            return wrong;
        }
        if code == Some(HARDWARE) && self.may_fail(window.phb) {
            return (Some(SUCCESS), None);
        }
        assert_ne!(code, Some(HARDWARE), "no reason for it");
        let tces = &mut self.windows.get_mut(&liobn).unwrap().tces;
        match number {
            H_STUFF_TCE if third == 0 => tces.retain(|page, _| !pages.contains(page)),
            H_STUFF_TCE => tces.extend(pages.map(|page| (page, third))),
            _ => tces.extend(pages.zip(values)),
        }
        tces.retain(|_, tce| *tce != 0);
        (Some(SUCCESS), None)
    }

    /// Yields the pages all RAM begins and ends at: page shift, and bit in a query's mask.
    fn offered(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let ends = self.slots.keys().map(|slot| SLOTS[*slot].0 | SLOTS[*slot].1).fold(0, |all, ends| all | ends);
        [(12, 1), (16, 2), (21, 0x100), (24, 4)].into_iter().filter(move |(shift, _)| match ends {
            0 => *shift == 12,
            _ => ends.is_multiple_of(1 << shift),
        })
    }

    /// Returns the expected result cells, where they are known, and applies the call. `status` is
    /// what the guest got.
    fn rtas(
        &mut self,
        testbed: &Testbed,
        token: u32,
        args: &[u32],
        rets: u32,
        offers: [DdwOffer; 2],
        status: Option<u32>,
    ) -> Vec<Option<u32>> {
        let with = |status: i32| {
            let mut cells = vec![Some(0); rets as usize];
            cells[0] = Some(status.cast_unsigned());
            cells
        };
        let wrong = with(-3);
        if token == TOKENS.remove {
            let ([liobn], 1) = (args, rets) else { return wrong };
            let gone = self.windows.remove(&u64::from(*liobn));
            return with(if gone.is_some() { 0 } else { -3 });
        }
        let (&[_, high, low], rest) = args.split_first_chunk().map_or((&[0; 3], args), |(pe, rest)| (pe, rest));
        let phb = match (u64::from(high) << 32) | u64::from(low) {
            BUID => 0,
            buid if buid == BUID + 1 => 1,
            _ => return wrong,
        };
        // The default window and a dynamic one, or two of these, the second of which takes the
        // default window's place.
        let first = Self::liobn(phb) + 1;
        let (is_first, is_second) = (self.windows.contains_key(&first), self.windows.contains_key(&(first - 1)));
        let dynamic = if is_first { first - 1 } else { first };
        let default = |window: &Window| (window.start, window.len, window.shift) == (0, self.setup.default, 12);
        let there = [first - 1, first].map(|liobn| self.windows.get(&liobn));
        let dynamics: Vec<_> = there.into_iter().flatten().filter(|window| !default(window)).collect();
        let both = dynamics.len() == 2;
        let present = dynamics.first().map(|window| window.len >> window.shift).filter(|_| is_first && is_second);
        let largest = self.offered().map(|(shift, _)| shift).max().unwrap_or(12);
        let room = if is_first { self.setup.default >> largest } else { u64::MAX };
        let attached = !self.groups[phb].is_empty();
        if token == TOKENS.query {
            if !(args.len() == 3 && (rets == 5 || rets == 6)) {
                return wrong;
            }
            let pages = self.offered().fold(0, |mask, (_, bit)| mask | bit);
            let entries = present.unwrap_or(u64::MAX).min(self.setup.entries);
            let known = !attached || present.is_some();
            let windows = known.then_some(2 - u32::from(is_first) - u32::from(is_second));
            let entries = if present.is_some() { entries } else { entries.min(room) };
            // With two windows, either may be reported.
            let entries = (known && !both).then_some(entries as u32);
            return match rets {
                5 => vec![Some(0), windows, entries, Some(pages), Some(0)],
                _ => vec![Some(0), windows, known.then_some(0), entries, Some(pages), Some(0)],
            };
        }
        if token == TOKENS.create {
            let (&[page, window], 4) = (rest, rets) else { return wrong };
            let shift = window.checked_sub(page).filter(|shift| *shift < 64);
            let fits = shift.is_some_and(|shift| 1 << shift <= offers[phb].entries);
            if present.is_some() || !self.offered().any(|(shift, _)| shift == page) || !fits {
                return wrong;
            }
            let status = status.unwrap_or(0).cast_signed();
            if status == -1 && self.may_fail(phb) {
                return with(-1);
            }
            let made = testbed.phbs[phb].tables().iter().find(|table| u64::from(table.liobn().0) == dynamic).cloned();
            let start = made.expect("a window that was offered is made").window().start().0;
            assert!(attached || start == if is_first { 0 } else { BIG });
            self.windows.insert(dynamic, Window { phb, start, len: 1 << window, shift: page, tces: BTreeMap::new() });
            return [0, dynamic as u32, (start >> 32) as u32, start as u32].map(Some).to_vec();
        }
        if rest.len() > 1 || rets != 1 {
            return wrong;
        }
        self.windows.remove(&first);
        if self.windows.get(&(first - 1)).is_some_and(|window| !default(window)) {
            self.windows.remove(&(first - 1));
        }
        if status == Some(u32::MAX) && self.may_fail(phb) && !self.windows.contains_key(&Self::liobn(phb)) {
            return with(-1);
        }
        self.default_window(phb);
        with(0)
    }

    fn attached(&mut self, phb: usize, group: u32, result: Result<(), PhbError>) {
        let free = group < 3 && self.groups.iter().all(|groups| !groups.contains(&group));
        match result {
            Ok(()) => {
                assert!(free, "group {group}");
                self.groups[phb].insert(group);
            }
            Err(PhbError::Attach(error)) => assert!(!free || self.setup.memlock.is_some(), "group {group}: {error}"),
            // RAM that is being removed is not mapped again.
            Err(PhbError::Table(error)) => {
                assert!(free && self.slots.values().any(|leaving| *leaving), "group {group}: {error}");
            }
            Err(error) => {
                let default = self.windows.contains_key(&Self::liobn(phb));
                let dynamic = self.windows.contains_key(&(Self::liobn(phb) + 1));
                let excused = self.setup.has_no_windows() || self.setup.memlock.is_some() || dynamic || !default;
                assert!(free && excused, "group {group}: {error}");
            }
        }
    }

    /// Checks that a slot is removed when nothing leads into it.
    fn unplugged(&mut self, slot: usize, result: Result<(), Vec<spapr_iommu::addr::IovaRange>>) {
        let (start, len) = SLOTS[slot];
        let mut expected: Vec<(u64, u64)> = Vec::new();
        for window in self.windows.values() {
            let size = 1 << window.shift;
            let into = |tce: u64| Window::leads(tce).is_some_and(|to| to < start + len && start < to + size);
            for (page, _) in window.tces.iter().filter(|(_, tce)| into(**tce)) {
                match expected.last_mut() {
                    Some((at, len)) if *at + *len == page << window.shift => *len += size,
                    _ => expected.push((page << window.shift, size)),
                }
            }
        }
        let found = result.err().unwrap_or_default();
        assert_eq!(found.iter().map(|range| (range.start().0, range.len())).collect::<Vec<_>>(), expected);
        if expected.is_empty() {
            self.slots.remove(&slot)
        } else {
            self.slots.insert(slot, true)
        };
    }
}
