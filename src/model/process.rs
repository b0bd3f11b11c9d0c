//! The process: its memory map, and the pages that back it.

use super::memlock::Locked;
use super::physical::{Lent, Physical, TASK_SIZE};
use crate::addr::{PageShift, UserAddr, UserRange};
use crate::host::Protection;
use crate::host::{Errno, Extent, LentMemory, Shared};
use core::ops::Range;
use rangemap::{RangeMap, RangeSet};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Where the search for free addresses starts.
const MMAP_BASE: u64 = 1 << 44;

/// The kind of memory at an address, for [`Model::declare`](super::Model::declare).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Anonymous memory in host pages.
    Ordinary,
    /// Anonymous memory in transparent huge pages of 2 MiB. They do not count for a region's page
    /// size.
    TransparentHuge,
    /// hugetlb pages of that size.
    Huge(PageShift),
    /// A device's memory, mapped into the process; cannot be pinned.
    Device,
    /// No memory.
    Hole,
}

/// Mapped memory; neighbours that continue each other are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Vma {
    pages: Pages,
    protection: Protection,
    device: bool,
}

/// Physical pages that back user addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    /// Physical address minus user address, wrapping.
    pub(super) delta: u64,
    /// Page size of hugetlb, otherwise the host's.
    pub(super) page: PageShift,
    /// Size of the compound page, which includes transparent huge pages.
    pub(super) compound: PageShift,
}

/// A stretch of user addresses and the pages that back it.
pub(super) type Stretch = (Range<u64>, Pages);

#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) page: PageShift,
    pub(super) locked: Locked,
    pub(super) physical: Physical,
    /// Whether undeclared addresses are ordinary memory.
    pub(super) open_memory: bool,
    /// Whether pages are pinned singly somewhere; then none are reclaimed any longer.
    pub(super) pinned_singly: bool,
    /// Free hugetlb pages by size.
    huge: BTreeMap<PageShift, u64>,
    vmas: RangeMap<u64, Vma>,
    search: Search,
}

/// Start of the search for free addresses: nothing before `from` has room for `len` bytes at a
/// multiple of `align`.
#[derive(Clone, Copy, Debug)]
struct Search {
    from: u64,
    len: u64,
    align: u64,
}

impl Default for Search {
    fn default() -> Self {
        Self { from: MMAP_BASE, len: 1, align: 1 }
    }
}

impl Process {
    pub(super) fn new(page: PageShift, huge: &[PageShift]) -> Self {
        Self {
            page,
            locked: Locked::new(page),
            physical: Physical::default(),
            open_memory: false,
            pinned_singly: false,
            huge: huge.iter().map(|size| (*size, u64::from(u32::MAX))).collect(),
            vmas: RangeMap::new(),
            search: Search::default(),
        }
    }

    pub(super) fn set_free_huge_pages(&mut self, count: u64) {
        self.huge.values_mut().for_each(|free| *free = count);
    }

    /// Allocates memory at any free address.
    pub(super) fn allocate(&mut self, size: u64, page: PageShift) -> Result<UserRange, Errno> {
        let len = page.max(self.page).ceil(size).filter(|len| *len != 0).ok_or(Errno::EINVAL)?;
        let align = page.max(PageShift::P64K).bytes();
        // If a length does not fit, longer ones do not either.
        let covered = self.search.len <= len && self.search.align <= align;
        let outer = if covered { self.search.from } else { MMAP_BASE }..TASK_SIZE;
        let start = self
            .vmas
            .gaps(&outer)
            .find_map(|gap| {
                let start = gap.start.checked_next_multiple_of(align)?;
                (start.checked_add(len)? <= gap.end).then_some(start)
            })
            .ok_or(Errno::ENOMEM)?;
        let kind = if page == self.page { MemoryKind::Ordinary } else { MemoryKind::Huge(page) };
        self.place(start..start + len, kind)?;
        if !covered || (self.search.len, self.search.align) == (len, align) || self.search.len == 1 {
            self.search = Search { from: start, len, align };
        }
        UserRange::new(UserAddr(start), len).map_err(|_| Errno::EINVAL)
    }

    /// Puts new memory, or a hole, at an address.
    pub(super) fn place(&mut self, range: Range<u64>, kind: MemoryKind) -> Result<(), Errno> {
        let page = match kind {
            MemoryKind::Huge(page) => page,
            _ => self.page,
        };
        if (range.start | range.end) & page.mask() != 0 || range.end > TASK_SIZE {
            return Err(Errno::EINVAL);
        }
        if let MemoryKind::Huge(page) = kind {
            let free = self.huge.get_mut(&page).ok_or(Errno::EINVAL)?;
            *free = free.checked_sub((range.end - range.start) >> page.get()).ok_or(Errno::ENOMEM)?;
        }
        if kind == MemoryKind::Hole {
            self.unmap(range);
            return Ok(());
        }
        let compound = if kind == MemoryKind::TransparentHuge { PageShift::P2M.max(page) } else { page };
        // Huge pages of either kind are physically contiguous too: what is aligned in one space is
        // aligned in the other.
        let align = compound.max(PageShift::P64K).bytes();
        let offset = range.start & (align - 1);
        let size = (range.end - range.start).checked_add(offset).ok_or(Errno::ENOMEM)?;
        let start = self.physical.allocate(size, align).ok_or(Errno::ENOMEM)? + offset;
        let pages = Pages { delta: start.wrapping_sub(range.start), page, compound };
        let device = kind == MemoryKind::Device;
        self.vmas.insert(range, Vma { pages, protection: Protection::ReadWrite, device });
        Ok(())
    }

    /// Leaves a hole, which the next search may find.
    fn unmap(&mut self, range: Range<u64>) {
        self.vmas.remove(range);
        self.search = Search::default();
    }

    /// Maps memory of the program that runs the model at its own address, which must be free.
    pub(super) fn adopt(&mut self, memory: &Shared, page: PageShift) -> Result<(), Errno> {
        let range = memory.range().start().0..memory.range().end().0;
        if self.vmas.overlaps(&range) {
            return Err(Errno::EEXIST);
        }
        let kind = if page == self.page { MemoryKind::Ordinary } else { MemoryKind::Huge(page) };
        self.place(range.clone(), kind)?;
        if let Some(vma) = self.vmas.get(&range.start) {
            self.physical.lend(range.start.wrapping_add(vma.pages.delta), Lent::Shared(memory.clone()));
        }
        Ok(())
    }

    /// Maps memory of the program that runs the model, reached through its owner; does nothing if
    /// it is lent already.
    pub(super) fn lend(&mut self, memory: UserRange, owner: Arc<dyn LentMemory>) -> Result<(), Errno> {
        let range = memory.start().0..memory.end().0;
        let physical = |vma: &Vma| range.start.wrapping_add(vma.pages.delta);
        if self.vmas.overlaps(&range) {
            let lent = self.vmas.get(&range.start).is_some_and(|vma| self.physical.is_lent(physical(vma), memory));
            return if lent { Ok(()) } else { Err(Errno::EEXIST) };
        }
        self.place(range.clone(), MemoryKind::Ordinary)?;
        if let Some(at) = self.vmas.get(&range.start).map(physical) {
            self.physical.lend(at, Lent::Owned(memory, owner));
        }
        Ok(())
    }

    /// Unmaps adopted memory; `held` as in [`Self::free`]. Later accesses to it read zeros.
    pub(super) fn disown(&mut self, range: Range<u64>, held: &[Stretch]) {
        if let Some(vma) = self.vmas.get(&range.start) {
            self.physical.take_back(range.start.wrapping_add(vma.pages.delta));
        }
        // Whole pages of one kind are never refused.
        let _ = self.free(range, held);
    }

    /// Returns what lies in a range, in address order; `None` for holes.
    pub(super) fn look(&self, range: Range<u64>) -> Vec<(Range<u64>, Option<Vma>)> {
        if range.is_empty() {
            return Vec::new();
        }
        let mut found: Vec<_> = self
            .vmas
            .overlapping(&range)
            .map(|(at, vma)| (at.start.max(range.start)..at.end.min(range.end), Some(*vma)))
            .collect();
        for gap in self.vmas.gaps(&range) {
            let border = if self.open_memory { TASK_SIZE.clamp(gap.start, gap.end) } else { gap.start };
            let pages = Pages { delta: 0, page: self.page, compound: self.page };
            let open = Vma { pages, protection: Protection::ReadWrite, device: false };
            found.push((gap.start..border, Some(open)));
            found.push((border..gap.end, None));
        }
        found.retain(|(at, _)| !at.is_empty());
        found.sort_by_key(|(at, _)| at.start);
        found
    }

    /// Returns the pages that back a range as a pin for DMA finds them, up to the first that cannot
    /// be pinned.
    pub(super) fn pin(&self, range: Range<u64>) -> (Vec<Stretch>, Option<u64>) {
        let mut pinned = Vec::new();
        for (at, vma) in self.look(range) {
            match vma {
                Some(vma) if vma.pinnable() => pinned.push((at, vma.pages)),
                _ => return (pinned, Some(at.start)),
            }
        }
        (pinned, None)
    }

    pub(super) fn backing(&self, range: Range<u64>) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        for (at, vma) in self.look(range) {
            let Some(vma) = vma else { continue };
            let Some(here) = UserRange::between(UserAddr(at.start), UserAddr(at.end)) else { continue };
            let new = Extent { range: here, page: vma.pages.page, pinnable: vma.pinnable() };
            match extents.last_mut() {
                Some(last)
                    if last.range.end() == here.start() && (last.page, last.pinnable) == (new.page, new.pinnable) =>
                {
                    last.range = last.range.hull(&here);
                }
                _ => extents.push(new),
            }
        }
        extents
    }

    /// Unmaps a range; `held` are the stretches whose pages are pinned.
    pub(super) fn free(&mut self, range: Range<u64>, held: &[Stretch]) -> Result<(), Errno> {
        self.check(&range)?;
        let gone: Vec<_> =
            self.look(range.clone()).into_iter().filter_map(|(at, vma)| Some((at, vma?.pages))).collect();
        self.unmap(range);
        self.reclaim(&gone, held);
        Ok(())
    }

    pub(super) fn protect(&mut self, range: Range<u64>, protection: Protection) -> Result<(), Errno> {
        self.check(&range)?;
        let found = self.look(range);
        if found.iter().any(|(_, vma)| vma.is_none()) {
            return Err(Errno::ENOMEM);
        }
        for (at, vma) in found {
            if let Some(vma) = vma {
                self.vmas.insert(at, Vma { protection, ..vma });
            }
        }
        Ok(())
    }

    /// Checks that the range is whole pages, whatever their size.
    fn check(&self, range: &Range<u64>) -> Result<(), Errno> {
        let cut = self.look(range.clone()).into_iter().any(|(at, vma)| {
            let mask = vma.map_or(self.page, |vma| vma.pages.page).mask();
            (at.start | at.end) & mask != 0
        });
        if cut { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// Frees pages of a region that lost their last pin, where the process has unmapped them as
    /// well.
    pub(super) fn unpin(&mut self, pages: &[Stretch]) {
        let held: Vec<_> = pages
            .iter()
            .flat_map(|(at, _)| self.look(at.clone()))
            .filter_map(|(at, vma)| Some((at, vma?.pages)))
            .collect();
        self.reclaim(pages, &held);
    }

    fn reclaim(&mut self, gone: &[Stretch], held: &[Stretch]) {
        if self.pinned_singly {
            return;
        }
        for (at, pages) in gone {
            let mut rest = RangeSet::new();
            rest.insert(at.clone());
            for (pinned, _) in held.iter().filter(|(_, other)| other.delta == pages.delta) {
                rest.remove(pinned.clone());
            }
            for part in rest.iter() {
                let len = part.end - part.start;
                self.physical.discard(part.start.wrapping_add(pages.delta), len);
                if let Some(free) = self.huge.get_mut(&pages.page) {
                    *free = free.saturating_add(len >> pages.page.get());
                }
            }
        }
    }

    pub(super) fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno> {
        let range = span(at, data.len())?;
        let found = self.look(range.clone());
        if found.iter().any(|(_, vma)| vma.is_none_or(|vma| vma.protection == Protection::None)) {
            return Err(Errno::EFAULT);
        }
        for (part, vma) in found {
            let (Some(vma), target) = (vma, offsets(&range, &part)) else { continue };
            self.physical.read(part.start.wrapping_add(vma.pages.delta), &mut data[target]);
        }
        Ok(())
    }

    pub(super) fn write(&mut self, at: UserAddr, data: &[u8]) -> Result<(), Errno> {
        let range = span(at, data.len())?;
        let found = self.look(range.clone());
        if found.iter().any(|(_, vma)| vma.is_none_or(|vma| vma.protection != Protection::ReadWrite)) {
            return Err(Errno::EFAULT);
        }
        for (part, vma) in found {
            let (Some(vma), source) = (vma, offsets(&range, &part)) else { continue };
            self.physical.write(part.start.wrapping_add(vma.pages.delta), &data[source]);
        }
        Ok(())
    }
}

impl Vma {
    fn pinnable(&self) -> bool {
        !self.device && self.protection == Protection::ReadWrite
    }
}

fn span(at: UserAddr, len: usize) -> Result<Range<u64>, Errno> {
    let end = at.0.checked_add(len as u64).ok_or(Errno::EFAULT)?;
    Ok(at.0..end)
}

fn offsets(whole: &Range<u64>, part: &Range<u64>) -> Range<usize> {
    (part.start - whole.start) as usize..(part.end - whole.start) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Memory;
    use crate::model::Model;

    #[test]
    fn memory_lies_at_the_lowest_address_where_it_fits() {
        let model = Model::new("powernv9-4k".parse().unwrap());
        let get = |len: u64| model.allocate(len, PageShift::P4K).unwrap();
        let (small, large, last) = (get(0x1_0000), get(0x4_0000), get(0x1_0000));
        assert!(small.end() <= large.start() && large.end() <= last.start());
        model.free(large).unwrap();
        assert_eq!(get(0x8_0000).start(), last.end(), "the hole is too small");
        assert_eq!(get(0x1_0000).start(), large.start(), "a smaller one fits");
        assert_eq!(get(0x3_0000).end(), large.end(), "so does another beside it");
        model.free(small).unwrap();
        assert_eq!(get(0x1_0000), small);
    }

    #[test]
    fn a_model_is_shown_in_a_few_lines() {
        let model = Model::new("powernv9".parse().unwrap()).with_groups(200);
        for _ in 0..100 {
            model.allocate(0x1_0000, PageShift::P64K).unwrap();
        }
        let shown = format!("{model:#?}");
        assert!(shown.lines().count() <= 10, "{shown}");
        assert!(shown.contains("groups: 200"), "{shown}");
    }
}
