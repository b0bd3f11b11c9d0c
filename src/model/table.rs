//! A TCE table: the hardware's entries, and the user addresses the kernel keeps for them.

use super::preset::Preset;
use super::process::Process;
use super::region::{Regions, Segment};
use crate::addr::{Iova, IovaRange};
use crate::host::Errno;
use core::ops::Range;
use rangemap::RangeMap;

/// The part that consecutive entries share. Addresses are differences, so neighbours that continue
/// each other are one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tce {
    /// User address minus bus address, wrapping.
    pub(super) user: u64,
    /// Physical address minus bus address, wrapping.
    pub(super) physical: u64,
    /// Bit 0: the device may read; bit 1: it may write.
    pub(super) bits: u32,
}

/// The platform's kind of window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WindowKind {
    /// powernv: a table of the PHB.
    Phb,
    /// pseries: the firmware's default window.
    Default,
    /// pseries: a dynamic window.
    Dynamic,
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) kind: WindowKind,
    pub(super) shift: u32,
    /// First bus address.
    pub(super) start: u64,
    /// Number of entries; may exceed the number requested.
    pub(super) entries: u64,
    /// Host pages charged for it.
    pub(super) charged: u64,
    /// The group it was created for; on pseries it serves no other.
    pub(super) group: u32,
    /// Entries by number (bus address >> shift).
    pub(super) runs: RangeMap<u64, Tce>,
}

impl Table {
    /// Returns its entry numbers.
    pub(super) fn numbers(&self) -> Range<u64> {
        let first = self.start >> self.shift;
        first..first.saturating_add(self.entries)
    }

    /// Returns the number of entries the hardware accepts. The firmware's default window has its
    /// full size, however small a table the kernel created for it.
    pub(super) fn granted(&self, preset: &Preset) -> u64 {
        match self.kind {
            WindowKind::Default => self.entries.max(u64::from(preset.limits().size) >> self.shift),
            WindowKind::Phb | WindowKind::Dynamic => self.entries,
        }
    }

    /// Returns its bus addresses; `None` for a table without entries, which pseries creates for
    /// windows smaller than a page.
    pub(super) fn range(&self) -> Option<IovaRange> {
        IovaRange::new(Iova(self.start), self.entries << self.shift).ok()
    }

    pub(super) fn contains(&self, iova: u64) -> bool {
        self.numbers().contains(&(iova >> self.shift))
    }

    /// Returns the entry for a bus address.
    pub(super) fn entry(&self, iova: u64) -> Option<&Tce> {
        self.runs.get(&(iova >> self.shift))
    }

    /// Removes entries and returns them.
    fn take(&mut self, numbers: &Range<u64>) -> Vec<(Range<u64>, Tce)> {
        if numbers.is_empty() {
            return Vec::new();
        }
        let overlapping = self.runs.overlapping(numbers);
        let clip = |at: &Range<u64>| at.start.max(numbers.start)..at.end.min(numbers.end);
        let old = overlapping.map(|(at, tce)| (clip(at), *tce)).collect();
        self.runs.remove(numbers.clone());
        old
    }

    /// Clears entries; those of a v2 table release their counts.
    pub(super) fn clear(&mut self, numbers: &Range<u64>, counted: Option<&mut Regions>) {
        let old = self.take(numbers);
        let Some(regions) = counted else { return };
        for (at, tce) in old {
            let user = (at.start << self.shift).wrapping_add(tce.user);
            regions.unmap(user, at.end - at.start, self.shift);
        }
    }

    /// Sets entries from `first` on; earlier entries there are silently replaced.
    pub(super) fn set(&mut self, first: u64, segments: &[Segment], bits: u32, mut counted: Option<&mut Regions>) {
        for segment in segments {
            let number = first + segment.index;
            let numbers = number..number + segment.count;
            if let Some(regions) = counted.as_deref_mut() {
                regions.map(segment.user, segment.count, self.shift);
            }
            self.clear(&numbers, counted.as_deref_mut());
            let user = segment.user.wrapping_sub(number << self.shift);
            let tce = Tce { user, physical: user.wrapping_add(segment.delta), bits };
            self.runs.insert(numbers, tce);
        }
    }
}

/// Pins the pages of a v1 MAP, each singly, wherever it lies.
pub(super) fn pin_singly(process: &Process, user: u64, count: u64, shift: u32) -> (Vec<Segment>, Option<(u64, Errno)>) {
    let page = 1u64 << shift;
    let host = process.page;
    let mut segments = Vec::new();
    let mut index = 0;
    while index < count {
        let Some(at) = index.checked_mul(page).and_then(|offset| user.checked_add(offset)) else {
            return (segments, Some((index, Errno::EFAULT)));
        };
        let end = at.saturating_add((count - index).saturating_mul(page));
        // Only the first host page of an IOMMU page is pinned, as far as it is contiguous.
        let (pinned, _) = process.pin(host.floor(at)..host.ceil(end).unwrap_or(u64::MAX));
        let Some((run, pages)) = pinned.first() else { return (segments, Some((index, Errno::EFAULT))) };
        if pages.compound.get() < shift {
            return (segments, Some((index, Errno::EPERM)));
        }
        let take = (run.end - at).div_ceil(page).min(count - index);
        segments.push(Segment { index, count: take, user: at, delta: pages.delta });
        index += take;
    }
    (segments, None)
}
