//! Tests what the allocator promises, case by case.

use super::{IovaSpan, Iovas};
use crate::addr::{Iova, PageShift, Range};

const P4K: PageShift = PageShift::P4K;

fn iovas(pages: u64) -> Iovas {
    Iovas::new(Range::new(Iova(1 << 59), pages << 12).unwrap(), P4K)
}

#[test]
fn pages_that_are_not_whole_are_left_out() {
    let iovas = Iovas::new(Range::new(Iova(0x1800), 0x3000).unwrap(), P4K);
    assert_eq!((iovas.free_bytes(), iovas.largest_free()), (0x2000, 0x2000));
    for (start, len) in [(0x1800, 0xfff), (u64::MAX - 1, 1)] {
        let mut none = Iovas::new(Range::new(Iova(start), len).unwrap(), P4K);
        assert_eq!((none.free_bytes(), none.largest_free(), none.free_blocks()), (0, 0, 0));
        assert_eq!(none.allocate(1, P4K), None);
    }
}

#[test]
fn a_whole_bus_is_a_window() {
    let mut iovas = Iovas::new(Range::new(Iova(0), u64::MAX).unwrap(), P4K);
    let all = !0xfff;
    assert_eq!(iovas.allocate(u64::MAX, P4K), None);
    let span = iovas.allocate(all, PageShift::P1G).unwrap();
    assert_eq!((span.range().len(), iovas.free_bytes()), (all, 0));
    assert!(iovas.free(span));
    assert_eq!(iovas.largest_free(), all);
}

#[test]
fn a_size_comes_back_where_it_was_freed_last() {
    let mut iovas = iovas(1 << 10);
    for pages in [1, 3, 33, 70] {
        let spans: Vec<_> = (0..7).map(|_| iovas.allocate(pages << 12, P4K).unwrap()).collect();
        let places: Vec<_> = spans.iter().map(IovaSpan::range).collect();
        // Every second one, so that none has a free neighbour.
        let (odd, even): (Vec<_>, Vec<_>) = spans.into_iter().enumerate().partition(|(i, _)| i % 2 == 1);
        for (_, span) in odd {
            assert!(iovas.free(span));
        }
        let again: Vec<_> = [5, 3, 1].map(|i| (i, iovas.allocate(pages << 12, P4K).unwrap())).into();
        for (i, span) in again.into_iter().chain(even) {
            assert_eq!(span.range(), places[i], "{pages} pages");
            assert!(iovas.free(span));
        }
        assert_eq!(iovas.free_blocks(), 1);
    }
}

#[test]
fn a_boundary_costs_nothing_but_what_lies_before_it() {
    let mut iovas = iovas(64);
    let odd = iovas.allocate(0x1000, P4K).unwrap();
    let even = iovas.allocate(1, PageShift::P64K).unwrap();
    assert_eq!(even.range().start(), Iova((1 << 59) + 0x10000));
    assert_eq!((even.range().len(), iovas.free_bytes(), iovas.free_blocks()), (0x1000, 62 << 12, 2));
    assert!(iovas.free(odd) && iovas.free(even));
    assert_eq!((iovas.largest_free(), iovas.free_blocks()), (64 << 12, 1));
}

#[test]
fn what_fits_exactly_is_found_among_smaller_blocks() {
    // 33 pages are in the bin of 32 and 33, where not every block is large enough.
    let mut iovas = iovas(32 + 1 + 33 + 1 + 32);
    let [first, _wall, exact, _other_wall, last] =
        [32, 1, 33, 1, 32].map(|pages| iovas.allocate(pages << 12, P4K).unwrap());
    assert_eq!(iovas.allocate(1, P4K), None);
    let place = exact.range();
    for span in [first, exact, last] {
        assert!(iovas.free(span));
    }
    // The last freed block is checked first, in vain.
    let span = iovas.allocate(33 << 12, P4K).unwrap();
    assert_eq!(span.range(), place);
}

#[test]
fn a_span_of_another_allocator_changes_nothing() {
    let (mut ours, mut theirs) = (iovas(8), iovas(8));
    let span = ours.allocate(0x1000, P4K).unwrap();
    let other = theirs.allocate(0x1000, P4K).unwrap();
    assert_eq!(span.range(), other.range());
    assert!(!ours.free(other));
    assert_eq!((ours.live(), ours.free_bytes()), (1, 7 << 12));
    assert!(ours.free(span));
    assert_eq!((ours.live(), ours.free_bytes()), (0, 8 << 12));
}

#[test]
fn nothing_is_lost_when_nothing_is_left() {
    let mut iovas = iovas(8);
    let spans: Vec<_> = std::iter::from_fn(|| iovas.allocate(0x1000, P4K)).collect();
    assert_eq!((spans.len(), iovas.free_bytes(), iovas.largest_free()), (8, 0, 0));
    assert_eq!(iovas.allocate(0, P4K), None);
    for span in spans {
        assert!(iovas.free(span));
    }
    assert_eq!((iovas.largest_free(), iovas.free_blocks()), (8 << 12, 1));
    assert_eq!(iovas.allocate(9 << 12, P4K), None);
}
