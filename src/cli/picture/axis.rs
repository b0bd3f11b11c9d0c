//! An axis of addresses: stretches to scale, and breaks where nothing is.
//!
//! It runs from top to bottom: a heading for each box (a window or a region), then the rows in it.
//! Rows are to scale, except that a mapped row is at least as high as a line of text, and that a
//! long stretch without mappings is a break of fixed height.

use super::canvas::LINE;

/// Maximum boxes and mapped rows of an axis; neighbours are joined beyond that.
const MAX_BOXES: usize = 8;
const MAX_SPOTS: usize = 14;
/// A gap smaller than this fraction of the whole is not visible.
const SEEN: u64 = 100;
/// Height of a break, of an empty box, and of a gap between boxes.
const BREAK: f64 = 22.0;
const EMPTY: f64 = 34.0;
/// Approximate height of all rows that are to scale.
const SCALED: f64 = 340.0;
/// Minimum height of free space that is to scale.
const LEAST: f64 = 3.0;

/// A stretch of addresses, of one object or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub start: u64,
    pub end: u64,
    /// Number of objects joined.
    pub count: u64,
    /// Bytes of these objects.
    pub bytes: u64,
}

impl Stretch {
    pub(super) fn new(start: u64, size: u64) -> Self {
        Self { start, end: start.saturating_add(size), count: 1, bytes: size }
    }

    fn len(&self) -> u64 {
        self.end - self.start
    }

    pub(super) fn contains(&self, at: u64) -> bool {
        self.start <= at && at < self.end
    }
}

/// Joins neighbours until there are at most `most`. The widest visible gaps and the edges of a
/// fence stay apart.
fn join(mut all: Vec<Stretch>, most: usize, fence: &[Stretch]) -> Vec<Stretch> {
    all.sort_by_key(|stretch| stretch.start);
    if all.len() <= most {
        return all;
    }
    let fenced =
        |left: &Stretch, right: &Stretch| fence.iter().any(|one| one.contains(left.start) != one.contains(right.start));
    let least = all.iter().fold(0u64, |bytes, one| bytes.saturating_add(one.len())) / SEEN;
    let splits = all.windows(2).enumerate().map(|(at, pair)| {
        let gap = pair[1].start.saturating_sub(pair[0].end);
        (fenced(&pair[0], &pair[1]), gap, at + 1)
    });
    let mut splits: Vec<_> = splits.filter(|(fenced, gap, _)| *fenced || *gap > least).collect();
    splits.sort_unstable_by_key(|(fenced, gap, at)| (core::cmp::Reverse((*fenced, *gap)), *at));
    let rank = |split: &(bool, u64, usize)| (split.0, split.1);
    if let Some(last) = splits.get(most - 1).map(rank) {
        // Of equal gaps, those that divide evenly.
        let wider = splits.partition_point(|split| rank(split) > last);
        let equal = splits[wider..].partition_point(|split| rank(split) == last);
        let wanted = most - 1 - wider;
        let chosen: Vec<_> = (0..wanted).map(|n| splits[wider + (n + 1) * equal / (wanted + 1)]).collect();
        splits.truncate(wider);
        splits.extend(chosen);
    }
    let mut splits: Vec<usize> = splits.into_iter().map(|(.., at)| at).chain([all.len()]).collect();
    splits.sort_unstable();
    let mut from = 0;
    let part = |to: usize| {
        let part = &all[std::mem::replace(&mut from, to)..to];
        let end = part.iter().map(|stretch| stretch.end).max().unwrap_or(0);
        let count = part.iter().map(|stretch| stretch.count).sum();
        let bytes = part.iter().fold(0u64, |bytes, stretch| bytes.saturating_add(stretch.bytes));
        Stretch { start: part[0].start, end, count, bytes }
    };
    splits.into_iter().map(part).collect()
}

/// What a row shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The heading of a box, with its number.
    Heading(usize),
    /// Mapped, with the number of the spot.
    Mapped(usize),
    /// Free, in a box.
    Free,
    /// Free space in a box, shortened.
    Break,
    /// Space between two boxes, shortened.
    Between,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Row {
    pub kind: Kind,
    pub start: u64,
    pub end: u64,
    /// Top and height, from the top of the axis.
    pub y: f64,
    pub height: f64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Axis {
    pub boxes: Vec<Stretch>,
    pub spots: Vec<Stretch>,
    pub rows: Vec<Row>,
    pub height: f64,
}

impl Axis {
    /// Divides the addresses. Mappings outside of all boxes get boxes of their own.
    pub(super) fn new(boxes: Vec<Stretch>, mapped: Vec<Stretch>) -> Self {
        let holds = |boxes: &[Stretch], spot: &Stretch| boxes.iter().any(|one| one.contains(spot.start));
        let outside: Vec<_> = mapped.iter().filter(|spot| !holds(&boxes, spot)).copied().collect();
        let boxes = join(boxes.into_iter().chain(outside).collect(), MAX_BOXES, &[]);
        let spots = join(mapped, MAX_SPOTS, &boxes);
        Self { boxes, spots, ..Self::default() }
    }

    /// Returns the bytes that are drawn to scale.
    pub(super) fn scaled(&self) -> u64 {
        self.spots.iter().fold(0, |bytes, spot| bytes.saturating_add(spot.len()))
    }

    /// Returns the pixels of a byte, for axes that are side by side.
    pub(super) fn scale(axes: &[&Self]) -> f64 {
        let most = axes.iter().map(|axis| axis.scaled()).max().unwrap_or(0);
        if most == 0 { 0.0 } else { SCALED / most as f64 }
    }

    /// Places the rows.
    pub(super) fn place(&mut self, scale: f64) {
        let total = self.scaled();
        let mut rows: Vec<(Kind, u64, u64, f64)> = Vec::new();
        let mut last: Option<u64> = None;
        for (number, one) in self.boxes.iter().enumerate() {
            if let Some(last) = last.filter(|last| *last < one.start) {
                rows.push((Kind::Between, last, one.start, BREAK));
            }
            rows.push((Kind::Heading(number), one.start, one.start, LINE));
            let mut at = one.start;
            let inside: Vec<_> = self.spots.iter().enumerate().filter(|(_, spot)| one.contains(spot.start)).collect();
            let free = |from: u64, to: u64, rows: &mut Vec<_>| {
                if from >= to {
                    return;
                }
                let len = to - from;
                match () {
                    () if len <= total / 2 => rows.push((Kind::Free, from, to, (len as f64 * scale).max(LEAST))),
                    () if total == 0 || inside.is_empty() => rows.push((Kind::Break, from, to, EMPTY)),
                    () => rows.push((Kind::Break, from, to, BREAK)),
                }
            };
            for (number, spot) in &inside {
                free(at, spot.start, &mut rows);
                let height = (spot.len() as f64 * scale).max(LINE);
                rows.push((Kind::Mapped(*number), spot.start, spot.end, height));
                at = spot.end;
            }
            free(at, one.end, &mut rows);
            last = Some(one.end.max(at));
        }
        let mut y = 0.0;
        self.rows = rows
            .into_iter()
            .map(|(kind, start, end, height)| {
                let row = Row { kind, start, end, y, height };
                y += height;
                row
            })
            .collect();
        self.height = y;
    }

    /// Returns the number of the spot that holds an address.
    pub(super) fn spot(&self, at: u64) -> Option<usize> {
        let after = self.spots.partition_point(|spot| spot.start <= at);
        after.checked_sub(1).filter(|before| self.spots[*before].contains(at))
    }

    /// Returns where an address of a spot is.
    pub(super) fn y(&self, spot: usize, at: u64) -> f64 {
        let row = self.rows.iter().find(|row| row.kind == Kind::Mapped(spot));
        row.map_or(0.0, |row| {
            let part = (at.clamp(row.start, row.end) - row.start) as f64 / (row.end - row.start).max(1) as f64;
            row.y + row.height * part
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(count: u64, gap: u64, most: usize) -> Vec<u64> {
        let all = (0..count).map(|n| Stretch::new(n * (10 + gap), 10)).collect();
        join(all, most, &[]).iter().map(|stretch| stretch.count).collect()
    }

    #[test]
    fn few_stay_as_they_are_and_many_are_joined_evenly() {
        assert_eq!(joined(4, 5, 4), [1, 1, 1, 1]);
        assert_eq!(joined(12, 5, 4), [3, 3, 3, 3]);
        assert_eq!(joined(12, 0, 4), [12], "what touches is one");
        assert_eq!(joined(10_000, 5, 4), [10_000], "such gaps are not seen");
    }

    #[test]
    fn the_widest_gaps_stay() {
        let starts = [0, 20, 40, 1000, 1020, 5000];
        let all = starts.iter().map(|start| Stretch::new(*start, 10)).collect();
        let found: Vec<_> = join(all, 3, &[]).iter().map(|one| (one.start, one.end, one.bytes)).collect();
        assert_eq!(found, [(0, 50, 30), (1000, 1030, 20), (5000, 5010, 10)]);
    }

    #[test]
    fn what_lies_in_two_boxes_is_not_joined() {
        let fence = [Stretch::new(0, 50), Stretch::new(50, 50)];
        let all = (0..10).map(|n| Stretch::new(n * 10, 10)).collect();
        let found: Vec<_> = join(all, 2, &fence).iter().map(|one| (one.start, one.end)).collect();
        assert_eq!(found, [(0, 50), (50, 100)]);
    }

    #[test]
    fn rows_follow_each_other_and_mapped_ones_are_to_scale() {
        let mut axis = Axis::new(
            vec![Stretch::new(0, 1000)],
            vec![Stretch::new(0, 200), Stretch::new(200, 100), Stretch::new(350, 1)],
        );
        axis.place(Axis::scale(&[&axis]));
        assert!(axis.rows.windows(2).all(|pair| pair[0].y + pair[0].height == pair[1].y));
        let height = |spot| axis.rows.iter().find(|row| row.kind == Kind::Mapped(spot)).unwrap().height;
        assert_eq!(height(0), 2.0 * height(1));
        assert_eq!(height(2), LINE, "a line of text has room");
        assert_eq!(axis.rows.last().unwrap().kind, Kind::Break, "the long rest is shortened");
        assert_eq!((axis.spot(250), axis.spot(300), axis.y(0, 100)), (Some(1), None, LINE + height(0) / 2.0));
    }
}
