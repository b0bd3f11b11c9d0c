//! The interval map: keeps what is mapped, over all windows of an address space.
//!
//! One entry is one run: a stretch of bus addresses that continues in user memory with one
//! permission and one region. The map stores the difference between user address and bus address,
//! so neighbours that continue each other merge by themselves, a run costs the same whatever its
//! length, and a lookup is one search.
//!
//! Runs are stored sorted, in chunks of arrays. One binary search finds a place with both
//! neighbours at hand, which is what every change needs; `BTreeMap` needs a search for each. Chunks
//! are allocated whole, so changes in steady state allocate nothing.

use crate::addr::{Iova, IovaRange, UserAddr, UserRange};
use crate::permission::Permission;
use arrayvec::ArrayVec;
use core::fmt::Debug;

#[cfg(test)]
mod twin;

/// A stretch of bus addresses that points to a stretch of user memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<T> {
    /// Bus addresses.
    pub iova: IovaRange,
    /// The user address the first of them points to.
    pub user: UserAddr,
    /// What the device may do with the memory.
    pub permission: Permission,
    /// The registry's region that the memory belongs to.
    pub region: T,
}

impl<T: Copy> Mapping<T> {
    /// Returns the user memory it points to; `None` only if that would wrap, which no registered
    /// memory does.
    pub fn user_range(&self) -> Option<UserRange> {
        UserRange::new(self.user, self.iova.len()).ok()
    }

    /// Returns the part of the mapping that lies in `range`.
    pub fn clip(&self, range: IovaRange) -> Option<Self> {
        let iova = self.iova.intersection(&range)?;
        let user = UserAddr(self.user.0.wrapping_add(iova.start().0 - self.iova.start().0));
        Some(Self { iova, user, ..*self })
    }
}

/// Where a bus address leads: the result of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// The user address that the bus address leads to.
    pub user: UserAddr,
    /// What the device may do there.
    pub permission: Permission,
    /// Bytes from here on that continue in user memory with the same permission.
    pub len: u64,
}

/// The value stored under a run's first bus address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run<T> {
    /// First bus address after the run.
    end: u64,
    /// User address minus bus address, wrapping.
    delta: u64,
    permission: Permission,
    region: T,
}

impl<T: Copy> Run<T> {
    fn mapping(&self, start: u64) -> Option<Mapping<T>> {
        let iova = IovaRange::between(Iova(start), Iova(self.end))?;
        let user = UserAddr(start.wrapping_add(self.delta));
        Some(Mapping { iova, user, permission: self.permission, region: self.region })
    }
}

impl<T: Copy + Eq> Run<T> {
    /// Returns whether `other`, which starts where this run ends, continues it.
    fn continues(&self, other: &Self) -> bool {
        self.delta == other.delta && self.permission == other.permission && self.region == other.region
    }
}

/// Runs by their first bus address. None overlap, and runs that continue each other are always
/// merged.
#[derive(Clone, Debug)]
pub struct IntervalMap<T> {
    runs: Runs<T>,
    bytes: u64,
}

impl<T> Default for IntervalMap<T> {
    fn default() -> Self {
        Self { runs: Runs::default(), bytes: 0 }
    }
}

impl<T: Copy + Eq + Debug> IntervalMap<T> {
    /// Creates an empty map.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of runs.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Returns whether nothing is mapped.
    pub fn is_empty(&self) -> bool {
        self.runs.len() == 0
    }

    /// Returns the number of bytes mapped.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Iterates over all runs in order of bus address.
    pub fn iter(&self) -> impl Iterator<Item = Mapping<T>> + '_ {
        self.runs.iter_from(self.runs.find(0)).filter_map(|(start, run)| run.mapping(start))
    }

    /// Finds the first run that ends after `start`.
    fn first_ending_after(&self, start: u64) -> Place {
        let at = self.runs.find(start);
        match self.runs.before(at) {
            Some(before) if self.runs.get(before).is_some_and(|(_, run)| run.end > start) => before,
            _ => at,
        }
    }

    /// Iterates over the runs in `range`, in order, cut to it.
    pub fn overlapping(&self, range: IovaRange) -> impl Iterator<Item = Mapping<T>> + '_ {
        let end = range.end().0;
        self.runs
            .iter_from(self.first_ending_after(range.start().0))
            .take_while(move |&(start, _)| start < end)
            .filter_map(move |(start, run)| run.mapping(start)?.clip(range))
    }

    /// Returns the first run in `range`, cut to it.
    pub fn first_overlap(&self, range: IovaRange) -> Option<Mapping<T>> {
        self.overlapping(range).next()
    }

    /// Iterates over the stretches of `range` in which nothing is mapped.
    pub fn gaps(&self, range: IovaRange) -> impl Iterator<Item = IovaRange> + '_ {
        let mut at = range.start();
        self.overlapping(range).map(|mapping| mapping.iova).map(Some).chain([None]).filter_map(move |mapped| {
            let until = mapped.map_or(range.end(), |mapped| mapped.start());
            let gap = IovaRange::between(at, until);
            at = mapped.map_or(range.end(), |mapped| mapped.end());
            gap
        })
    }

    /// Translates `iova` to the user address it leads to.
    pub fn translate(&self, iova: Iova) -> Option<Translation> {
        let (_, run) = self.runs.last_from(iova.0)?;
        (iova.0 < run.end).then(|| Translation {
            user: UserAddr(iova.0.wrapping_add(run.delta)),
            permission: run.permission,
            len: run.end - iova.0,
        })
    }

    /// Finds where a mapping of `range` is to be added; `None` if something is mapped there.
    #[inline]
    pub(crate) fn free_spot(&self, range: IovaRange) -> Option<Spot> {
        let (start, end) = (range.start().0, range.end().0);
        let at = self.runs.seek(start);
        let left_ends = self.runs.left(at).is_none_or(|(_, left)| left.end <= start);
        (left_ends && self.runs.start_right(at).is_none_or(|right| right >= end)).then_some(Spot(at))
    }

    /// Does the same for a mapping that follows the one just added at `last`, without a search;
    /// `None` if it does not follow.
    #[inline]
    pub(crate) fn free_spot_after(&self, Spot(last): Spot, range: IovaRange) -> Option<Spot> {
        let at = Place { index: last.index + 1, ..last };
        let follows = self.runs.left(at).is_some_and(|(_, left)| left.end <= range.start().0);
        let fits = self.runs.start_right(at).is_none_or(|right| right >= range.end().0);
        (follows && fits).then_some(Spot(at))
    }

    /// Adds a mapping. Nothing may be mapped there: a mapping in the way stays and is returned, and
    /// nothing is added.
    pub fn insert(&mut self, mapping: Mapping<T>) -> Result<(), Mapping<T>> {
        match self.free_spot(mapping.iova) {
            Some(spot) => {
                let _ = self.insert_at(spot, mapping);
                Ok(())
            }
            None => Err(self.overlapping(mapping.iova).next().unwrap_or(mapping)),
        }
    }

    /// Adds a mapping at the place that [`Self::free_spot`] has found for it, if nothing else has
    /// changed since. Returns where it is now, unless it has become part of another run.
    pub(crate) fn insert_at(&mut self, Spot(at): Spot, mapping: Mapping<T>) -> Option<Spot> {
        let (start, end) = (mapping.iova.start().0, mapping.iova.end().0);
        let delta = mapping.user.0.wrapping_sub(start);
        let run = Run { end, delta, permission: mapping.permission, region: mapping.region };
        self.bytes += mapping.iova.len();
        let joins_left = self.runs.left(at).filter(|(_, left)| left.end == start && left.continues(&run));
        let touches_right = self.runs.start_right(at) == Some(end);
        if joins_left.is_none() && !touches_right {
            return Some(Spot(self.runs.insert(at, start, run)));
        }
        let right = self.runs.at_or_next(at);
        let joins_right = self.runs.get(right).filter(|(right, there)| *right == end && run.continues(there));
        let end = joins_right.map_or(end, |(_, right)| right.end);
        match (joins_left, self.runs.before(at)) {
            (Some((left, &there)), Some(before)) => {
                self.runs.set(before, left, Run { end, ..there });
                if joins_right.is_some() {
                    self.runs.remove(right);
                }
            }
            _ if joins_right.is_some() => self.runs.set(right, start, Run { end, ..run }),
            _ => return Some(Spot(self.runs.insert(at, start, run))),
        }
        None
    }

    /// Finds the run that is exactly `range`.
    #[inline]
    pub(crate) fn exact(&self, range: IovaRange) -> Option<(Spot, Mapping<T>)> {
        let at = self.runs.seek(range.start().0);
        let at = self.runs.at_or_next(at);
        let (start, run) = self.runs.get(at)?;
        ((start, run.end) == (range.start().0, range.end().0)).then_some((Spot(at), run.mapping(start)?))
    }

    /// Removes a run that [`Self::exact`] has found, if nothing else has changed since.
    pub(crate) fn remove_at(&mut self, Spot(at): Spot) {
        if let Some((start, run)) = self.runs.get(at) {
            self.bytes -= run.end - start;
            self.runs.remove(at);
        }
    }

    /// Removes what is mapped in `range`, cutting runs that reach over its ends, and hands each
    /// piece to `taken`, in order.
    pub fn remove(&mut self, range: IovaRange, mut taken: impl FnMut(Mapping<T>)) {
        let end = range.end().0;
        let mut from = range.start().0;
        while let Some(rest) = IovaRange::between(Iova(from), range.end()) {
            let at = self.first_ending_after(from);
            let Some((start, run)) = self.runs.get(at).filter(|&(start, _)| start < end) else { return };
            if start >= from && run.end <= end {
                from = run.end;
                let whole = self.runs.ending_by(at, end).map(|(start, run)| {
                    from = run.end;
                    self.bytes -= run.end - start;
                    run.mapping(start).into_iter().for_each(&mut taken);
                });
                let count = whole.count();
                self.runs.remove_many(at, count);
                continue;
            }
            if let Some(piece) = run.mapping(start).and_then(|whole| whole.clip(rest)) {
                self.bytes -= piece.iova.len();
                taken(piece);
            }
            match (start < from, run.end > end) {
                (true, false) => self.runs.set(at, start, Run { end: from, ..run }),
                (false, _) => self.runs.set(at, end, run),
                (true, true) => {
                    self.runs.set(at, start, Run { end: from, ..run });
                    self.runs.insert(self.runs.after(at), end, run);
                }
            }
            from = run.end.min(end);
        }
    }
}

/// Largest number of runs in a chunk.
const FULL: usize = 64;
/// A chunk with fewer runs is merged with a neighbour that has room.
const SPARSE: usize = FULL / 4;

#[derive(Clone, Debug)]
struct Chunk<T> {
    starts: ArrayVec<u64, FULL>,
    runs: ArrayVec<Run<T>, FULL>,
}

impl<T> Chunk<T> {
    fn new() -> Box<Self> {
        Box::new(Self { starts: ArrayVec::new(), runs: ArrayVec::new() })
    }
}

/// A place among the runs. Valid until the next change; it may be one past the last run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    chunk: usize,
    index: usize,
}

/// A place in the map, until its next change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot(Place);

/// Runs by their start. No chunk is empty.
#[derive(Clone, Debug)]
struct Runs<T> {
    /// The first start of each chunk.
    firsts: Vec<u64>,
    chunks: Vec<Box<Chunk<T>>>,
    len: usize,
}

impl<T> Default for Runs<T> {
    fn default() -> Self {
        Self { firsts: Vec::new(), chunks: Vec::new(), len: 0 }
    }
}

impl<T: Copy> Runs<T> {
    fn len(&self) -> usize {
        self.len
    }

    /// Finds the place of a run that starts at `start`, if need be one past the last run of a
    /// chunk. The run before it is in the same chunk, unless there is none.
    #[inline]
    fn seek(&self, start: u64) -> Place {
        let chunk = self.firsts.partition_point(|&first| first < start).saturating_sub(1);
        let index = self.chunks.get(chunk).map_or(0, |chunk| chunk.starts.partition_point(|&at| at < start));
        Place { chunk, index }
    }

    /// Returns the run before a place that [`Self::seek`] has found.
    #[inline]
    fn left(&self, at: Place) -> Option<(u64, &Run<T>)> {
        let (chunk, index) = (self.chunks.get(at.chunk)?, at.index.checked_sub(1)?);
        Some((*chunk.starts.get(index)?, chunk.runs.get(index)?))
    }

    /// Returns the start of the run at or after a place that [`Self::seek`] has found.
    #[inline]
    fn start_right(&self, at: Place) -> Option<u64> {
        let here = self.chunks.get(at.chunk).and_then(|chunk| chunk.starts.get(at.index));
        here.or_else(|| self.firsts.get(at.chunk + 1)).copied()
    }

    /// Returns the place of the run at or after a place that [`Self::seek`] has found.
    #[inline]
    fn at_or_next(&self, at: Place) -> Place {
        match self.chunks.get(at.chunk) {
            Some(chunk) if at.index == chunk.starts.len() => Place { chunk: at.chunk + 1, index: 0 },
            _ => at,
        }
    }

    /// Finds the first run that starts at or after `start`.
    fn find(&self, start: u64) -> Place {
        self.at_or_next(self.seek(start))
    }

    /// Returns the last run that starts at or before `at`.
    fn last_from(&self, at: u64) -> Option<(u64, &Run<T>)> {
        let chunk = &self.chunks[self.firsts.partition_point(|&first| first <= at).checked_sub(1)?];
        let index = chunk.starts.partition_point(|&start| start <= at).checked_sub(1)?;
        Some((chunk.starts[index], &chunk.runs[index]))
    }

    /// Returns the run at a place, with its start.
    fn get(&self, at: Place) -> Option<(u64, Run<T>)> {
        let chunk = self.chunks.get(at.chunk)?;
        Some((*chunk.starts.get(at.index)?, *chunk.runs.get(at.index)?))
    }

    /// Returns the place before `at`.
    fn before(&self, at: Place) -> Option<Place> {
        match at.index.checked_sub(1) {
            Some(index) => Some(Place { index, ..at }),
            None => {
                let chunk = at.chunk.checked_sub(1)?;
                Some(Place { chunk, index: self.chunks.get(chunk)?.starts.len().checked_sub(1)? })
            }
        }
    }

    /// Returns the place after `at`.
    fn after(&self, at: Place) -> Place {
        match self.chunks.get(at.chunk) {
            Some(chunk) if at.index + 1 < chunk.starts.len() => Place { index: at.index + 1, ..at },
            _ => Place { chunk: at.chunk + 1, index: 0 },
        }
    }

    /// Iterates over the runs from a place on.
    fn iter_from(&self, mut at: Place) -> impl Iterator<Item = (u64, Run<T>)> + '_ {
        core::iter::from_fn(move || {
            let found = self.get(at)?;
            at = self.after(at);
            Some(found)
        })
    }

    /// Replaces the run at a place; the new one must stay between its neighbours.
    fn set(&mut self, at: Place, start: u64, run: Run<T>) {
        let Some(chunk) = self.chunks.get_mut(at.chunk) else { return };
        if let (Some(its_start), Some(its_run)) = (chunk.starts.get_mut(at.index), chunk.runs.get_mut(at.index)) {
            (*its_start, *its_run) = (start, run);
            if at.index == 0 {
                self.firsts[at.chunk] = start;
            }
        }
    }

    /// Inserts a run at its place, which [`Self::find`] or [`Self::seek`] has found. Returns where
    /// it is now.
    fn insert(&mut self, mut at: Place, start: u64, run: Run<T>) -> Place {
        // After the last run of a chunk rather than before the first of the next.
        if at.index == 0
            && let Some(before) = self.before(at)
        {
            at = Place { index: before.index + 1, ..before };
        }
        match self.chunks.get(at.chunk) {
            None => {
                self.firsts.push(start);
                self.chunks.push(Chunk::new());
            }
            // Runs that arrive in order fill chunks to the end.
            Some(chunk) if chunk.starts.is_full() && at.index == FULL => {
                at = Place { chunk: at.chunk + 1, index: 0 };
                self.firsts.insert(at.chunk, start);
                self.chunks.insert(at.chunk, Chunk::new());
            }
            Some(chunk) if chunk.starts.is_full() => at = self.split(at),
            Some(_) => {}
        }
        let chunk = &mut self.chunks[at.chunk];
        chunk.starts.insert(at.index, start);
        chunk.runs.insert(at.index, run);
        if at.index == 0 {
            self.firsts[at.chunk] = start;
        }
        self.len += 1;
        at
    }

    /// Splits a full chunk in half and returns the new place of `at`.
    fn split(&mut self, at: Place) -> Place {
        let mut upper = Chunk::new();
        let lower = &mut self.chunks[at.chunk];
        upper.starts.extend(lower.starts.drain(FULL / 2..));
        upper.runs.extend(lower.runs.drain(FULL / 2..));
        self.firsts.insert(at.chunk + 1, upper.starts[0]);
        self.chunks.insert(at.chunk + 1, upper);
        match at.index.checked_sub(FULL / 2) {
            Some(index) if index > 0 => Place { chunk: at.chunk + 1, index },
            _ => at,
        }
    }

    /// Removes the run at a place.
    fn remove(&mut self, at: Place) {
        let Some(chunk) = self.chunks.get_mut(at.chunk) else { return };
        if chunk.starts.pop_at(at.index).is_none() || chunk.runs.pop_at(at.index).is_none() {
            return;
        }
        self.removed(at.chunk, 1);
    }

    /// Iterates over the runs from a place on that end by `end`, in the same chunk.
    fn ending_by(&self, at: Place, end: u64) -> impl Iterator<Item = (u64, &Run<T>)> + '_ {
        let chunk = self.chunks.get(at.chunk).into_iter();
        let runs = chunk.flat_map(move |chunk| chunk.starts.iter().copied().zip(&chunk.runs).skip(at.index));
        runs.take_while(move |(_, run)| run.end <= end)
    }

    /// Removes the runs from a place on, so many in the same chunk.
    fn remove_many(&mut self, at: Place, count: usize) {
        let Some(chunk) = self.chunks.get_mut(at.chunk) else { return };
        let end = (at.index + count).min(chunk.starts.len());
        let removed = chunk.starts.drain(at.index..end).count();
        chunk.runs.drain(at.index..end);
        self.removed(at.chunk, removed);
    }

    /// Puts the table right after runs of a chunk were removed.
    fn removed(&mut self, at: usize, count: usize) {
        self.len -= count;
        let chunk = &self.chunks[at].starts;
        match chunk.first() {
            None => {
                self.chunks.remove(at);
                self.firsts.remove(at);
            }
            Some(&first) => {
                self.firsts[at] = first;
                if chunk.len() < SPARSE {
                    self.join(at);
                }
            }
        }
    }

    /// Merges a sparse chunk with a neighbour if both fit in half a chunk each.
    fn join(&mut self, chunk: usize) {
        let lower = chunk.saturating_sub(1);
        let fits = |chunk: usize| self.chunks.get(chunk).is_some_and(|chunk| chunk.starts.len() <= FULL / 2);
        if !fits(lower) || !fits(lower + 1) {
            return;
        }
        let upper = self.chunks.remove(lower + 1);
        self.firsts.remove(lower + 1);
        self.chunks[lower].starts.extend(upper.starts);
        self.chunks[lower].runs.extend(upper.runs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn mapping(iova: u64, len: u64, user: u64) -> Mapping<u32> {
        let iova = IovaRange::new(Iova(iova), len).unwrap();
        Mapping { iova, user: UserAddr(user), permission: Permission::ReadWrite, region: 0 }
    }

    fn range(start: u64, len: u64) -> IovaRange {
        IovaRange::new(Iova(start), len).unwrap()
    }

    #[test]
    fn neighbours_that_continue_each_other_become_one_run() {
        let mut map = IntervalMap::new();
        map.insert(mapping(0x1000, 0x1000, 0xa000)).unwrap();
        map.insert(mapping(0x3000, 0x1000, 0xc000)).unwrap();
        assert_eq!(map.len(), 2);
        map.insert(mapping(0x2000, 0x1000, 0xb000)).unwrap();
        assert_eq!(map.iter().collect::<Vec<_>>(), [mapping(0x1000, 0x3000, 0xa000)]);
        assert_eq!(map.bytes(), 0x3000);
    }

    #[test]
    fn another_region_permission_or_delta_stays_apart() {
        let mut map = IntervalMap::new();
        map.insert(mapping(0x1000, 0x1000, 0xa000)).unwrap();
        map.insert(Mapping { region: 1, ..mapping(0x2000, 0x1000, 0xb000) }).unwrap();
        map.insert(Mapping { permission: Permission::Read, region: 1, ..mapping(0x3000, 0x1000, 0xc000) }).unwrap();
        map.insert(mapping(0x0, 0x1000, 0xa000)).unwrap();
        assert_eq!(map.len(), 4);
    }

    #[test]
    fn an_overlap_is_refused_and_named() {
        let mut map = IntervalMap::new();
        map.insert(mapping(0x1000, 0x4000, 0xa000)).unwrap();
        let error = map.insert(mapping(0x2000, 0x1000, 0x0)).unwrap_err();
        assert_eq!(error, mapping(0x2000, 0x1000, 0xb000));
        assert_eq!(map.insert(mapping(0x0, 0x1001, 0x0)).unwrap_err(), mapping(0x1000, 1, 0xa000));
        assert_eq!(map.bytes(), 0x4000);
    }

    #[test]
    fn a_hole_splits_a_run() {
        let mut map = IntervalMap::new();
        map.insert(mapping(0x0, 0x5000, 0x10000)).unwrap();
        let mut taken = Vec::new();
        map.remove(range(0x1000, 0x2000), |piece| taken.push(piece));
        assert_eq!(taken, [mapping(0x1000, 0x2000, 0x11000)]);
        let left: Vec<_> = map.iter().collect();
        assert_eq!(left, [mapping(0x0, 0x1000, 0x10000), mapping(0x3000, 0x2000, 0x13000)]);
        assert_eq!(map.gaps(range(0, 0x6000)).collect::<Vec<_>>(), [range(0x1000, 0x2000), range(0x5000, 0x1000)]);
    }

    #[test]
    fn translation_says_how_far_it_holds() {
        let mut map = IntervalMap::new();
        map.insert(mapping(1 << 59, 0x2000, 0xa000)).unwrap();
        let found = map.translate(Iova((1 << 59) + 0x1004)).unwrap();
        assert_eq!(found, Translation { user: UserAddr(0xb004), permission: Permission::ReadWrite, len: 0xffc });
        assert_eq!(map.translate(Iova((1 << 59) + 0x2000)), None);
        assert_eq!(map.translate(Iova(0)), None);
    }

    fn run(end: u64) -> Run<u32> {
        Run { end, delta: 0, permission: Permission::Read, region: 0 }
    }

    #[track_caller]
    fn equal(runs: &Runs<u32>, twin: &BTreeMap<u64, u64>) {
        assert_eq!(runs.len(), twin.len());
        let all: Vec<_> = runs.iter_from(runs.find(0)).map(|(start, run)| (start, run.end)).collect();
        assert_eq!(all, twin.iter().map(|(&start, &end)| (start, end)).collect::<Vec<_>>());
        assert!(runs.chunks.iter().all(|chunk| !chunk.starts.is_empty() && chunk.starts.len() == chunk.runs.len()));
        let firsts: Vec<_> = runs.chunks.iter().map(|chunk| chunk.starts[0]).collect();
        assert_eq!(firsts, runs.firsts);
    }

    /// Fewer rounds under Miri, which is slow.
    const ROUNDS: u32 = if cfg!(miri) { 300 } else { 20_000 };
    const CHECKS: u32 = if cfg!(miri) { 3 } else { 40 };

    #[test]
    fn chunks_split_and_join_as_runs_come_and_go() {
        let (mut runs, mut twin) = (Runs::default(), BTreeMap::new());
        let mut rng = fastrand::Rng::with_seed(1);
        for round in 0..ROUNDS {
            let start = rng.u64(..2_000);
            // Grows in the first half, shrinks in the second.
            let grows = rng.u32(..ROUNDS) > round;
            let at = runs.find(start);
            let there = runs.get(at).filter(|(found, _)| *found == start);
            assert_eq!(there.map(|(_, run)| run.end), twin.get(&start).copied());
            let last = runs.last_from(start).map(|(start, run)| (start, run.end));
            assert_eq!(last, twin.range(..=start).next_back().map(|(&start, &end)| (start, end)));
            if there.is_some() && !grows {
                runs.remove(at);
                twin.remove(&start);
            } else if there.is_none() && grows {
                runs.insert(at, start, run(start + 1));
                twin.insert(start, start + 1);
            }
            if round % (ROUNDS / CHECKS) == 0 {
                equal(&runs, &twin);
            }
        }
        equal(&runs, &twin);
    }

    #[test]
    fn runs_go_by_the_chunk_and_leave_the_rest() {
        let cuts = [(10, 250), (5, 7), (0, 300), (63, 65), (64, 128), (1, 299)];
        // One under Miri, which is slow.
        for (from, to) in cuts.into_iter().take(if cfg!(miri) { 1 } else { cuts.len() }) {
            let mut map = IntervalMap::new();
            let mut last = None;
            for page in 0..300 {
                let mapping = mapping(page * 0x1000, 0x1000, (1000 - page) * 0x1000);
                let spot = last.and_then(|last| map.free_spot_after(last, mapping.iova));
                assert_eq!(spot.is_some(), page != 0);
                let spot = spot.or_else(|| map.free_spot(mapping.iova)).unwrap();
                assert_eq!(Some(spot), map.free_spot(mapping.iova));
                last = map.insert_at(spot, mapping);
            }
            let all: Vec<_> = map.iter().collect();
            // The first and the last of them only in part.
            let cut = range(from * 0x1000 + 0x800, (to - from - 1) * 0x1000);
            let (mut taken, mut expected) = (Vec::new(), Vec::new());
            map.remove(cut, |piece| taken.push(piece));
            expected.extend(all.iter().filter_map(|run| run.clip(cut)));
            assert_eq!(taken, expected);
            let whole: Vec<_> = map.iter().filter(|run| run.iova.len() == 0x1000).collect();
            let outside = |run: &&Mapping<u32>| run.iova.intersection(&cut).is_none();
            assert_eq!(whole, all.iter().filter(outside).copied().collect::<Vec<_>>());
            assert_eq!(map.bytes() + cut.len(), 300 * 0x1000);
            assert_eq!(map.len(), map.iter().count());
            map.remove(range(0, 300 * 0x1000), |_| {});
            assert!(map.is_empty() && map.bytes() == 0);
        }
    }

    #[test]
    fn what_comes_in_order_fills_chunks() {
        let mut runs = Runs::default();
        for start in 0..10 * FULL as u64 {
            runs.insert(runs.find(start), start, run(start + 1));
        }
        assert_eq!(runs.chunks.len(), 10);
    }
}
