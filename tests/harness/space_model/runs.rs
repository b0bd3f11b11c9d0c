//! The expected mappings, the naive way: a list that is searched from end to end.

pub use crate::joined::{Stretch, joined};

use spapr_iommu::permission::Permission;

/// A stretch of bus addresses that leads to a stretch of user memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub iova: u64,
    pub len: u64,
    pub user: u64,
    pub permission: Permission,
    /// Whether the user has changed the memory since.
    pub stale: bool,
}

impl Run {
    /// Returns the part of it in `start..end`.
    fn cut(&self, start: u64, end: u64) -> Option<Self> {
        let (from, to) = (self.iova.max(start), (self.iova + self.len).min(end));
        (from < to).then(|| Self { iova: from, len: to - from, user: self.user + (from - self.iova), ..*self })
    }

    /// Returns the bus addresses that lead to `start..end` of user memory: first and length.
    pub fn seen(&self, start: u64, end: u64) -> Option<(u64, u64)> {
        let (from, to) = (self.user.max(start), (self.user + self.len).min(end));
        (from < to).then(|| (self.iova + (from - self.user), to - from))
    }
}

#[derive(Clone, Debug, Default)]
pub struct Runs(pub Vec<Run>);

impl Runs {
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|run| run.len).sum()
    }

    /// Returns the bytes mapped in `start..end`.
    pub fn within(&self, start: u64, end: u64) -> u64 {
        self.0.iter().filter_map(|run| run.cut(start, end)).map(|run| run.len).sum()
    }

    pub fn remove(&mut self, start: u64, end: u64) {
        self.0 = self.0.iter().flat_map(|run| [run.cut(0, start), run.cut(end, u64::MAX)]).flatten().collect();
    }

    pub fn insert(&mut self, run: Run) {
        self.0.push(run);
    }

    /// Marks what leads to `start..end` of user memory as changed.
    pub fn spoil(&mut self, start: u64, end: u64) {
        for run in std::mem::take(&mut self.0) {
            let Some((iova, len)) = run.seen(start, end) else {
                self.0.push(run);
                continue;
            };
            let middle = run.cut(iova, iova + len).map(|part| Run { stale: true, ..part });
            self.0.extend([run.cut(0, iova), middle, run.cut(iova + len, u64::MAX)].into_iter().flatten());
        }
    }

    /// Returns them in order, with those joined that continue each other.
    pub fn joined(&self) -> Vec<Stretch> {
        joined(self.0.iter().map(|run| (run.iova, run.len, run.user, run.permission)))
    }
}
