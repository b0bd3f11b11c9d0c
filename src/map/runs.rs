//! Sorted storage of runs: chunks of arrays, found by binary search.
//!
//! One search finds a place with both neighbours at hand, which is what an interval map needs for
//! every change; `BTreeMap` needs a search for each. Chunks are allocated whole, so changes in
//! steady state allocate nothing.

use super::Run;
use arrayvec::ArrayVec;

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
pub(super) struct Place {
    chunk: usize,
    index: usize,
}

/// Runs by their start. No chunk is empty.
#[derive(Clone, Debug)]
pub(super) struct Runs<T> {
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
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Finds the first run that starts at or after `start`.
    pub(super) fn find(&self, start: u64) -> Place {
        let behind = self.firsts.partition_point(|&first| first < start);
        let Some(chunk) = behind.checked_sub(1) else { return Place { chunk: 0, index: 0 } };
        let index = self.chunks[chunk].starts.partition_point(|&at| at < start);
        if index == self.chunks[chunk].starts.len() {
            Place { chunk: behind, index: 0 }
        } else {
            Place { chunk, index }
        }
    }

    /// Returns the last run that starts at or before `at`.
    pub(super) fn last_from(&self, at: u64) -> Option<(u64, &Run<T>)> {
        let chunk = &self.chunks[self.firsts.partition_point(|&first| first <= at).checked_sub(1)?];
        let index = chunk.starts.partition_point(|&start| start <= at).checked_sub(1)?;
        Some((chunk.starts[index], &chunk.runs[index]))
    }

    /// Returns the run at a place, with its start.
    pub(super) fn get(&self, at: Place) -> Option<(u64, Run<T>)> {
        let chunk = self.chunks.get(at.chunk)?;
        Some((*chunk.starts.get(at.index)?, *chunk.runs.get(at.index)?))
    }

    /// Returns the place before `at`.
    pub(super) fn before(&self, at: Place) -> Option<Place> {
        match at.index.checked_sub(1) {
            Some(index) => Some(Place { index, ..at }),
            None => {
                let chunk = at.chunk.checked_sub(1)?;
                Some(Place { chunk, index: self.chunks.get(chunk)?.starts.len().checked_sub(1)? })
            }
        }
    }

    /// Returns the place after `at`.
    pub(super) fn behind(&self, at: Place) -> Place {
        match self.chunks.get(at.chunk) {
            Some(chunk) if at.index + 1 < chunk.starts.len() => Place { index: at.index + 1, ..at },
            _ => Place { chunk: at.chunk + 1, index: 0 },
        }
    }

    /// Iterates over the runs from a place on.
    pub(super) fn iter_from(&self, mut at: Place) -> impl Iterator<Item = (u64, Run<T>)> + '_ {
        core::iter::from_fn(move || {
            let found = self.get(at)?;
            at = self.behind(at);
            Some(found)
        })
    }

    /// Replaces the run at a place; the new one must stay between its neighbours.
    pub(super) fn set(&mut self, at: Place, start: u64, run: Run<T>) {
        let Some(chunk) = self.chunks.get_mut(at.chunk) else { return };
        if let (Some(its_start), Some(its_run)) = (chunk.starts.get_mut(at.index), chunk.runs.get_mut(at.index)) {
            (*its_start, *its_run) = (start, run);
            if at.index == 0 {
                self.firsts[at.chunk] = start;
            }
        }
    }

    /// Inserts a run at its place, which [`Self::find`] has found.
    pub(super) fn insert(&mut self, mut at: Place, start: u64, run: Run<T>) {
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
    pub(super) fn remove(&mut self, at: Place) {
        let Some(chunk) = self.chunks.get_mut(at.chunk) else { return };
        if chunk.starts.pop_at(at.index).is_none() || chunk.runs.pop_at(at.index).is_none() {
            return;
        }
        self.len -= 1;
        match chunk.starts.first() {
            None => {
                self.chunks.remove(at.chunk);
                self.firsts.remove(at.chunk);
            }
            Some(&first) => {
                self.firsts[at.chunk] = first;
                if chunk.starts.len() < SPARSE {
                    self.join(at.chunk);
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
    use crate::permission::Permission;
    use std::collections::BTreeMap;

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
    fn what_comes_in_order_fills_chunks() {
        let mut runs = Runs::default();
        for start in 0..10 * FULL as u64 {
            runs.insert(runs.find(start), start, run(start + 1));
        }
        assert_eq!(runs.chunks.len(), 10);
    }
}
