//! Checks the allocator against a naive twin: a tree of free ranges.

use super::{IovaSpan, Iovas};
use crate::addr::{Iova, IovaRange, PageShift};
use proptest::prelude::*;
use std::collections::BTreeMap;

const PAGE: PageShift = PageShift::P4K;
const STEPS: usize = if cfg!(miri) { 12 } else { 200 };

/// Free ranges: first page, and the first page after.
struct Twin(BTreeMap<u64, u64>);

impl Twin {
    fn new(start: u64, end: u64) -> Self {
        Self((start < end).then_some((start, end)).into_iter().collect())
    }

    fn fits(&self, pages: u64, align: u64) -> bool {
        self.fits_below(pages, align, u64::MAX)
    }

    /// Whether they fit before a page.
    fn fits_below(&self, pages: u64, align: u64, limit: u64) -> bool {
        self.0.iter().any(|(&start, &end)| start.next_multiple_of(align) + pages <= end.min(limit))
    }

    /// The most pages in one piece before a page.
    fn largest_below(&self, limit: u64) -> u64 {
        self.0.iter().map(|(&start, &end)| end.min(limit).saturating_sub(start)).max().unwrap_or(0)
    }

    /// Takes the pages. Returns whether all were free.
    fn take(&mut self, start: u64, end: u64) -> bool {
        let Some((&from, &to)) = self.0.range(..=start).next_back() else { return false };
        if to < end {
            return false;
        }
        self.0.remove(&from);
        self.0.extend([(from, start), (end, to)].into_iter().filter(|(from, to)| from < to));
        true
    }

    fn free(&mut self, mut start: u64, mut end: u64) {
        if let Some(to) = self.0.remove(&end) {
            end = to;
        }
        if let Some((&from, _)) = self.0.range(..start).next_back().filter(|&(_, &to)| to == start) {
            start = from;
        }
        self.0.insert(start, end);
    }

    fn sizes(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().map(|(start, end)| (end - start) << PAGE.get())
    }
}

fn pages_of(span: &IovaSpan) -> (u64, u64) {
    (span.range().start().0 >> PAGE.get(), span.range().end().0 >> PAGE.get())
}

/// Collects the free ranges, in order, by walking all blocks.
fn free_ranges(iovas: &Iovas) -> BTreeMap<u64, u64> {
    iovas.blocks.iter().filter(|(_, block)| block.is_free).map(|(_, b)| (b.start, b.start + b.pages)).collect()
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Allocate { bytes: u64, align: u32 },
    AllocateWithin { bytes: u64, align: u32, last: u64 },
    Free { which: usize },
}

fn step() -> impl Strategy<Value = Step> {
    let pages = prop_oneof![4 => 1..5_u64, 2 => 1..40_u64, 1 => 30..200_u64];
    let within = (1..20_u64, 12..16_u32, 0..600_u64 << 12);
    let allocate = (pages, 0..4096_u64, prop_oneof![3 => Just(12), 2 => 12..19_u32]);
    prop_oneof![
        3 => allocate.prop_map(|(pages, less, align)| Step::Allocate { bytes: (pages << 12) - less, align }),
        1 => within.prop_map(|(pages, align, last)| Step::AllocateWithin { bytes: pages << 12, align, last }),
        2 => any::<usize>().prop_map(|which| Step::Free { which }),
    ]
}

proptest! {
    #[test]
    fn the_allocator_equals_its_twin_after_every_step(
        first in 0..70_u64,
        count in 0..500_u64,
        steps in prop::collection::vec(step(), 1..STEPS),
    ) {
        // Starts and ends in the middle of a page.
        let range = IovaRange::new(Iova((first << 12) + 1), (count << 12) + 0x1ffe).unwrap();
        let mut iovas = Iovas::new(range, PAGE);
        let mut twin = Twin::new(first + 1, first + 1 + count);
        let mut live: Vec<IovaSpan> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate { bytes, align } => {
                    let align = PageShift::new(align).unwrap();
                    let pages = bytes.div_ceil(4096);
                    let span = iovas.allocate(bytes, align);
                    prop_assert_eq!(span.is_some(), twin.fits(pages, align.bytes() >> 12));
                    if let Some(span) = span {
                        let (start, end) = pages_of(&span);
                        prop_assert!(range.contains_range(&span.range()));
                        prop_assert_eq!(end - start, pages);
                        prop_assert_eq!(span.range().start().0 & align.mask(), 0);
                        prop_assert!(twin.take(start, end), "{:?} was not free", span);
                        live.push(span);
                    }
                }
                Step::AllocateWithin { bytes, align, last } => {
                    let align = PageShift::new(align).unwrap();
                    // The page of `last` is not whole unless `last` is its last byte.
                    let limit = (last + 1) >> 12;
                    prop_assert_eq!(iovas.largest_free_within(last), twin.largest_below(limit) << 12);
                    let span = iovas.allocate_within(bytes, align, last);
                    prop_assert_eq!(span.is_some(), twin.fits_below(bytes >> 12, align.bytes() >> 12, limit));
                    if let Some(span) = span {
                        let (start, end) = pages_of(&span);
                        prop_assert!(span.range().end().0 - 1 <= last);
                        prop_assert_eq!(span.range().start().0 & align.mask(), 0);
                        prop_assert!(twin.take(start, end), "{:?} was not free", span);
                        live.push(span);
                    }
                }
                Step::Free { which } if !live.is_empty() => {
                    let span = live.swap_remove(which % live.len());
                    let (start, end) = pages_of(&span);
                    twin.free(start, end);
                    prop_assert!(iovas.free(span));
                }
                Step::Free { .. } => {}
            }
            prop_assert_eq!(free_ranges(&iovas), twin.0.clone());
            prop_assert_eq!(iovas.free_bytes(), twin.sizes().sum::<u64>());
            prop_assert_eq!(iovas.largest_free(), twin.sizes().max().unwrap_or(0));
            prop_assert_eq!(iovas.free_blocks(), twin.0.len());
            prop_assert_eq!(iovas.live(), live.len());
        }
        for span in live {
            prop_assert!(iovas.free(span));
        }
        prop_assert!(iovas.is_empty());
        prop_assert_eq!(iovas.largest_free(), count << 12);
        prop_assert_eq!(iovas.free_blocks(), usize::from(count != 0));
    }
}
