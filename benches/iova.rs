//! Measures allocating and freeing bus addresses of a window, compared with a plain `BTreeMap` of
//! free ranges.
//!
//! `cargo bench --bench iova`

#[path = "measure/mod.rs"]
mod measure;

use measure::{Table, median_ns};
use spapr_iommu::addr::{Iova, IovaRange, PageShift};
use spapr_iommu::dma::{IovaSpan, Iovas};
use std::collections::BTreeMap;

const PAGE: PageShift = PageShift::P4K;
const LIVE: u64 = 100_000;
/// Pages of a span, all equally likely: mostly packets, some large buffers.
const SIZES: [u64; 8] = [1, 1, 1, 2, 4, 8, 16, 64];
/// Number of frees, each with an allocation, before anything is timed.
const WARM: u64 = 100_000;
/// Number of frees and allocations after which fragmentation is reported.
const OPERATIONS: u64 = 10_000_000;

trait Allocator {
    type Span: PartialEq;

    fn new(pages: u64) -> Self;
    fn allocate(&mut self, pages: u64) -> Option<Self::Span>;
    fn free(&mut self, span: Self::Span);
    fn place(span: &Self::Span) -> u64;
    fn free_pages(&self) -> u64;
    fn largest_free(&self) -> u64;
    fn free_blocks(&self) -> usize;
}

impl Allocator for Iovas {
    type Span = IovaSpan;

    fn new(pages: u64) -> Self {
        Iovas::new(IovaRange::new(Iova(0), pages << PAGE.get()).expect("range"), PAGE)
    }

    fn allocate(&mut self, pages: u64) -> Option<IovaSpan> {
        Iovas::allocate(self, pages << PAGE.get(), PAGE)
    }

    fn free(&mut self, span: IovaSpan) {
        assert!(Iovas::free(self, span));
    }

    fn place(span: &IovaSpan) -> u64 {
        span.range().start().0 >> PAGE.get()
    }

    fn free_pages(&self) -> u64 {
        self.free_bytes() >> PAGE.get()
    }

    fn largest_free(&self) -> u64 {
        Iovas::largest_free(self) >> PAGE.get()
    }

    fn free_blocks(&self) -> usize {
        Iovas::free_blocks(self)
    }
}

/// Free ranges by their first page; allocates from the lowest that is large enough.
struct Plain(BTreeMap<u64, u64>);

impl Allocator for Plain {
    type Span = (u64, u64);

    fn new(pages: u64) -> Self {
        Self(BTreeMap::from([(0, pages)]))
    }

    fn allocate(&mut self, pages: u64) -> Option<(u64, u64)> {
        let (&start, &len) = self.0.iter().find(|&(_, &len)| len >= pages)?;
        self.0.remove(&start);
        if len > pages {
            self.0.insert(start + pages, len - pages);
        }
        Some((start, pages))
    }

    fn free(&mut self, (mut start, mut pages): (u64, u64)) {
        if let Some(next) = self.0.remove(&(start + pages)) {
            pages += next;
        }
        if let Some((&before, &len)) = self.0.range(..start).next_back()
            && before + len == start
        {
            (start, pages) = (before, pages + len);
        }
        self.0.insert(start, pages);
    }

    fn place(&(start, _): &(u64, u64)) -> u64 {
        start
    }

    fn free_pages(&self) -> u64 {
        self.0.values().sum()
    }

    fn largest_free(&self) -> u64 {
        self.0.values().copied().max().unwrap_or(0)
    }

    fn free_blocks(&self) -> usize {
        self.0.len()
    }
}

/// A window with spans that come and go; the same ones for every allocator.
struct Churn<A: Allocator> {
    allocator: A,
    spans: Vec<(u64, Option<A::Span>)>,
    rng: fastrand::Rng,
    failed: u64,
    same_place: u64,
}

impl<A: Allocator> Churn<A> {
    fn new(window: u64) -> Self {
        let mut churn = Self {
            allocator: A::new(window),
            spans: Vec::new(),
            rng: fastrand::Rng::with_seed(LIVE),
            failed: 0,
            same_place: 0,
        };
        for _ in 0..LIVE {
            let pages = churn.size();
            let span = churn.allocator.allocate(pages);
            churn.spans.push((pages, span));
        }
        churn.pairs(WARM);
        churn
    }

    fn size(&mut self) -> u64 {
        SIZES[self.rng.usize(..SIZES.len())]
    }

    /// Frees a random span and allocates one of another size.
    fn pairs(&mut self, count: u64) {
        for _ in 0..count {
            let which = self.rng.usize(..self.spans.len());
            let pages = self.size();
            if let Some(span) = self.spans[which].1.take() {
                self.allocator.free(span);
            }
            let span = self.allocator.allocate(pages);
            self.failed += u64::from(span.is_none());
            self.spans[which] = (pages, span);
        }
    }

    /// Frees a random one of the first spans and allocates its size again.
    fn same_size(&mut self, of: usize, count: u64) {
        for _ in 0..count {
            let which = self.rng.usize(..of);
            let (pages, span) = &mut self.spans[which];
            let Some(old) = span.take() else { continue };
            let place = A::place(&old);
            self.allocator.free(old);
            *span = self.allocator.allocate(*pages);
            self.same_place += u64::from(span.as_ref().map(A::place) == Some(place));
        }
    }

    fn fragmentation(&self, name: &str) {
        let (free, largest) = (self.allocator.free_pages(), self.allocator.largest_free());
        println!(
            "{name:10} {free:12} {largest:14} {:13.3} {:12} {:10}",
            largest as f64 / free as f64,
            self.allocator.free_blocks(),
            self.failed
        );
    }
}

fn main() {
    const ROUND: u64 = 4096;
    let pages = LIVE * SIZES.iter().sum::<u64>() / SIZES.len() as u64;
    for percent in [20, 80, 95] {
        let window = pages * 100 / percent;
        println!("{LIVE} live, a window of {window} pages, {percent} percent taken");
        Table::head("", "Iovas", "BTreeMap");
        let (mut ours, mut theirs) = (Churn::<Iovas>::new(window), Churn::<Plain>::new(window));
        let (our_time, their_time) = median_ns(ROUND as usize, || ours.pairs(ROUND), || theirs.pairs(ROUND));
        Table::row("free, allocate another size", our_time, their_time);
        for (what, of) in [("allocate the same size", ours.spans.len()), ("the same, of 32 spans", 32)] {
            let (our_time, their_time) =
                median_ns(ROUND as usize, || ours.same_size(of, ROUND), || theirs.same_size(of, ROUND));
            Table::row(&format!("free, {what}"), our_time, their_time);
            let [ours, theirs] = [&mut ours.same_place, &mut theirs.same_place].map(std::mem::take);
            // The first round of each is not timed.
            let percent = |count: u64| 100.0 * count as f64 / (26 * ROUND) as f64;
            println!("{:34} {:10.1} % {:10.1} %", "  at the same place", percent(ours), percent(theirs));
        }
        if percent == 80 {
            ours.pairs(OPERATIONS / 2);
            theirs.pairs(OPERATIONS / 2);
            println!("after {OPERATIONS} operations:");
            println!(
                "{:10} {:>12} {:>14} {:>13} {:>12} {:>10}",
                "", "free pages", "largest block", "of all free", "free blocks", "failed"
            );
            ours.fragmentation("Iovas");
            theirs.fragmentation("BTreeMap");
        }
        println!();
    }
}
