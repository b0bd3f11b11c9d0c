//! Allocates bus addresses of one DMA window to transfers.
//!
//! Two-level segregated fit over IOMMU pages (Masmano, Ripoll, Crespo and Real, "TLSF: a new
//! dynamic memory allocator for real-time systems", ECRTS 2004): free blocks are in lists by size,
//! last freed first, and bitmaps find a list with a block that is large enough. A freed block joins
//! its free neighbours at once. The cost of allocating and freeing does not depend on how much is
//! live, and neither allocates memory after there have been as many blocks before. Only when no
//! list is left whose blocks all fit are other lists searched, so that a block that fits is always
//! found.

use crate::addr::{Iova, IovaRange, PageShift, Range};
use bins::{Bins, NONE, bin_for, bin_of};
use slab::Slab;
use std::sync::atomic::{AtomicU32, Ordering};

mod bins;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod twin;

/// Largest number of blocks: slots are below [`NONE`], and one allocation creates two.
const MAX_BLOCKS: usize = NONE as usize - 2;

/// Allocated bus addresses. Free them with [`Iovas::free`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "dropped, its addresses stay taken"]
pub struct IovaSpan {
    range: IovaRange,
    slot: u32,
    owner: u32,
}

impl IovaSpan {
    /// Returns the addresses, whole IOMMU pages.
    pub fn range(&self) -> IovaRange {
        self.range
    }
}

/// A stretch of pages, free or taken. Blocks cover the window without gaps, and no two free ones
/// touch.
#[derive(Debug)]
struct Block {
    /// Number of the first page on the bus.
    start: u64,
    pages: u64,
    /// The blocks before and after it in the window.
    before: u32,
    after: u32,
    /// The blocks before and after it in the list of its bin, if it is free.
    previous: u32,
    next: u32,
    is_free: bool,
}

impl Block {
    /// Returns where `pages` pages on a boundary of `mask` + 1 start in it, if they fit.
    fn place(&self, pages: u64, mask: u64) -> Option<u64> {
        let at = (self.start + mask) & !mask;
        (at + pages <= self.start + self.pages).then_some(at)
    }
}

/// Allocator for the bus addresses of one window, in IOMMU pages.
#[derive(Debug)]
pub struct Iovas {
    page: PageShift,
    blocks: Slab<Block>,
    bins: Bins,
    free_pages: u64,
    live: usize,
    /// Distinguishes its spans from those of other allocators.
    owner: u32,
}

impl Iovas {
    /// Creates an allocator with all whole pages of `range` free; there may be none.
    pub fn new(range: IovaRange, page: PageShift) -> Self {
        static OWNERS: AtomicU32 = AtomicU32::new(0);
        let start = range.start().0.div_ceil(page.bytes());
        let pages = (range.end().0 >> page.get()).saturating_sub(start);
        let mut iovas = Self {
            page,
            blocks: Slab::new(),
            bins: Bins::new(pages),
            free_pages: pages,
            live: 0,
            owner: OWNERS.fetch_add(1, Ordering::Relaxed),
        };
        if pages != 0 {
            let slot =
                iovas.add(Block { start, pages, before: NONE, after: NONE, previous: NONE, next: NONE, is_free: true });
            iovas.link(slot);
        }
        iovas
    }

    /// Allocates `bytes` bytes, rounded up to pages, on a boundary of `align` or of a page,
    /// whichever is larger. `None` if no free block holds them, and for 0 bytes.
    pub fn allocate(&mut self, bytes: u64, align: PageShift) -> Option<IovaSpan> {
        let pages = bytes.div_ceil(self.page.bytes());
        let mask = (align.bytes() >> self.page.get()).saturating_sub(1);
        if pages == 0 || pages > self.free_pages || self.blocks.len() > MAX_BLOCKS {
            return None;
        }
        let (slot, at) = self.find(pages, mask)?;
        self.take_span(slot, at, pages)
    }

    fn take_span(&mut self, slot: u32, at: u64, pages: u64) -> Option<IovaSpan> {
        let range = Range::new(Iova(at << self.page.get()), pages << self.page.get()).ok()?;
        let slot = self.take(slot, at, pages);
        self.free_pages -= pages;
        self.live += 1;
        Some(IovaSpan { range, slot, owner: self.owner })
    }

    /// Allocates `bytes` bytes like [`Self::allocate`], none of them above `last`. Searches all
    /// blocks for the lowest that fits.
    pub fn allocate_within(&mut self, bytes: u64, align: PageShift, last: u64) -> Option<IovaSpan> {
        let pages = bytes.div_ceil(self.page.bytes());
        let mask = (align.bytes() >> self.page.get()).saturating_sub(1);
        if pages == 0 || pages > self.free_pages || self.blocks.len() > MAX_BLOCKS {
            return None;
        }
        let end = self.pages_within(last);
        let fits = self.blocks.iter().filter(|(_, block)| block.is_free).filter_map(|(slot, block)| {
            let at = block.place(pages, mask).filter(|at| at + pages <= end)?;
            Some((at, slot as u32))
        });
        let (at, slot) = fits.min()?;
        self.take_span(slot, at, pages)
    }

    /// Frees addresses. Returns `false`, and changes nothing, if they are another allocator's.
    pub fn free(&mut self, span: IovaSpan) -> bool {
        if !self.owns(&span) {
            return false;
        }
        let block = self.at(span.slot);
        let (pages, before, after) = (block.pages, block.before, block.after);
        let mut slot = span.slot;
        if self.is_free(after) {
            self.unlink(after);
            self.join(slot, after);
        }
        if self.is_free(before) {
            self.unlink(before);
            self.join(before, slot);
            slot = before;
        }
        self.link(slot);
        self.free_pages += pages;
        self.live -= 1;
        true
    }

    /// Returns the number of free bytes, in however many blocks.
    pub fn free_bytes(&self) -> u64 {
        self.free_pages << self.page.get()
    }

    /// Returns the bytes of the largest free block. Searches the blocks of about its size.
    pub fn largest_free(&self) -> u64 {
        let largest =
            self.bins.last().and_then(|bin| self.list(bin).map(|slot| self.blocks[slot as usize].pages).max());
        largest.unwrap_or(0) << self.page.get()
    }

    /// Returns the bytes of the largest free piece that reaches no further than `last`. Searches
    /// all blocks.
    pub fn largest_free_within(&self, last: u64) -> u64 {
        let end = self.pages_within(last);
        let free = self.blocks.iter().filter(|(_, block)| block.is_free);
        let pages = free.map(|(_, block)| (block.start + block.pages).min(end).saturating_sub(block.start));
        pages.max().unwrap_or(0) << self.page.get()
    }

    /// Returns the first page that does not end at `last` or before.
    fn pages_within(&self, last: u64) -> u64 {
        // 2^64 takes more than 64 bits.
        ((u128::from(last) + 1) >> self.page.get()) as u64
    }

    /// Returns whether `span` was allocated here.
    pub fn owns(&self, span: &IovaSpan) -> bool {
        span.owner == self.owner
    }

    /// Returns in how many blocks the free bytes are.
    pub fn free_blocks(&self) -> usize {
        self.blocks.len() - self.live
    }

    /// Returns the number of allocated spans.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Returns whether nothing is allocated.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Finds a free block and the page in it where the pages fit.
    fn find(&self, pages: u64, mask: u64) -> Option<(u32, u64)> {
        let bin = bin_of(pages);
        let fit = |slot: u32| Some((slot, self.blocks.get(slot as usize)?.place(pages, mask)?));
        // The first block of the same size may fit exactly; from the next bin on all blocks fit,
        // wherever the boundary falls.
        let enough = bin_for(pages + mask);
        fit(self.bins.first(bin))
            .or_else(|| fit(self.bins.first(self.bins.next(enough)?)))
            .or_else(|| (bin..enough).find_map(|bin| self.list(bin).find_map(fit)))
    }

    /// Takes pages out of a free block; the pages before and after them stay free.
    fn take(&mut self, mut slot: u32, at: u64, pages: u64) -> u32 {
        self.unlink(slot);
        if self.at(slot).start < at {
            let rest = self.split(slot, at);
            self.link(slot);
            slot = rest;
        }
        if pages < self.at(slot).pages {
            let rest = self.split(slot, at + pages);
            self.link(rest);
        }
        self.at(slot).is_free = false;
        slot
    }

    /// Cuts a block at a page within it; the later part gets its own slot.
    fn split(&mut self, slot: u32, at: u64) -> u32 {
        let block = self.at(slot);
        let pages = block.start + block.pages - at;
        let after = block.after;
        block.pages -= pages;
        let rest = self.add(Block { start: at, pages, before: slot, after, previous: NONE, next: NONE, is_free: true });
        self.at(slot).after = rest;
        if after != NONE {
            self.at(after).before = rest;
        }
        rest
    }

    /// Merges two blocks that touch, neither of them in a list.
    fn join(&mut self, slot: u32, after: u32) {
        let gone = self.blocks.remove(after as usize);
        let block = self.at(slot);
        block.pages += gone.pages;
        block.after = gone.after;
        if gone.after != NONE {
            self.at(gone.after).before = slot;
        }
    }

    /// Puts a block first in the list of its bin.
    fn link(&mut self, slot: u32) {
        let bin = bin_of(self.at(slot).pages);
        let next = self.bins.first(bin);
        let block = self.at(slot);
        (block.previous, block.next, block.is_free) = (NONE, next, true);
        if next != NONE {
            self.at(next).previous = slot;
        }
        self.bins.set_first(bin, slot);
    }

    /// Removes a block from the list of its bin.
    fn unlink(&mut self, slot: u32) {
        let block = self.at(slot);
        let (bin, previous, next) = (bin_of(block.pages), block.previous, block.next);
        if next != NONE {
            self.at(next).previous = previous;
        }
        if previous != NONE {
            self.at(previous).next = next;
        } else {
            self.bins.set_first(bin, next);
        }
    }

    /// Iterates over the blocks of a bin, last freed first.
    fn list(&self, bin: usize) -> impl Iterator<Item = u32> + '_ {
        let known = |slot: u32| (slot != NONE).then_some(slot);
        std::iter::successors(known(self.bins.first(bin)), move |&slot| known(self.blocks[slot as usize].next))
    }

    fn is_free(&self, slot: u32) -> bool {
        self.blocks.get(slot as usize).is_some_and(|block| block.is_free)
    }

    fn at(&mut self, slot: u32) -> &mut Block {
        &mut self.blocks[slot as usize]
    }

    fn add(&mut self, block: Block) -> u32 {
        self.blocks.insert(block) as u32
    }
}
