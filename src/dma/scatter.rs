//! Scatter-gather: many parts of one memory, mapped together with few calls.

use super::arena::WindowKind;
use super::mapped::Mapped;
use super::{DmaError, DmaMemory, OutOfBounds};
use crate::addr::{Iova, IovaRange, UserRange};
use crate::permission::Permission;
use crate::space::MapRequest;
use core::fmt;

/// A part of a [`DmaMemory`]: an entry of its scatter list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPart {
    /// Where it begins in the memory, bytes.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// Parts of a [`DmaMemory`] that devices reach until this is dropped.
pub struct ScatterMap {
    mapped: Mapped,
    parts: Vec<IovaRange>,
}

/// IOMMU pages in one piece of memory, and how far from the first bus address they are mapped.
struct Run {
    user: UserRange,
    at: u64,
}

impl DmaMemory {
    /// Maps parts of the memory, in any order, until the map is dropped. Parts whose IOMMU pages
    /// touch or overlap are mapped together: one MAP for each stretch of pages, and later one UNMAP
    /// for all, per container. Devices see whole IOMMU pages, so also what lies beside the parts in
    /// this memory.
    pub fn map_parts(&self, parts: &[MemoryPart], permission: Permission) -> Result<ScatterMap, DmaError> {
        if parts.is_empty() {
            return Err(DmaError::Empty);
        }
        let users = parts.iter().map(|part| self.part(part.offset, part.len));
        let users = users.collect::<Result<Vec<UserRange>, OutOfBounds>>()?;
        Mapped::in_best_window(self.dma(), |kind| self.map_users(kind, &users, permission))
    }

    fn map_users(&self, kind: WindowKind, users: &[UserRange], permission: Permission) -> Result<ScatterMap, DmaError> {
        let (dma, memory) = (self.dma(), self.memory());
        let pages = users.iter().map(|user| Mapped::whole_pages(dma, kind, memory, *user));
        let runs = runs(pages.collect::<Result<_, DmaError>>()?);
        let bytes = runs.iter().map(|run| run.user.len()).sum();
        let outside = OutOfBounds { offset: 0, len: bytes, size: self.size() };
        let first = runs.first().ok_or(outside)?.user;
        let allocation = dma.allocate(kind, bytes)?;
        let start = allocation.range().start().0;
        let request = |run: &Run| {
            let iova = IovaRange::new(Iova(start + run.at), run.user.len()).ok()?;
            Some(MapRequest { iova, user: run.user.start(), permission })
        };
        let requests: Option<Vec<_>> = runs.iter().map(request).collect();
        let parts: Option<Vec<_>> = users.iter().map(|user| iova_of(&runs, start, *user)).collect();
        let (Some(requests), Some(parts)) = (requests, parts) else {
            dma.give_back(allocation);
            return Err(outside.into());
        };
        Ok(ScatterMap { mapped: Mapped::at(dma, memory, first, allocation, &requests)?, parts })
    }
}

/// Joins pages that touch or overlap, and places the runs side by side on the bus.
fn runs(mut pages: Vec<UserRange>) -> Vec<Run> {
    pages.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for user in pages {
        let at = runs.last().map_or(0, |last| last.at + last.user.len());
        match runs.last_mut() {
            Some(last) if user.start() <= last.user.end() => {
                last.user = last.user.hull(&user);
            }
            _ => runs.push(Run { user, at }),
        }
    }
    runs
}

/// Returns where devices see `user`, a part of one of the runs.
fn iova_of(runs: &[Run], start: u64, user: UserRange) -> Option<IovaRange> {
    let after = runs.partition_point(|run| run.user.start() <= user.start());
    let run = runs.get(after.checked_sub(1)?).filter(|run| run.user.contains_range(&user))?;
    IovaRange::new(Iova(start + run.at + (user.start().0 - run.user.start().0)), user.len()).ok()
}

impl ScatterMap {
    /// Returns where devices see the parts, in the order in which they were given.
    pub fn iova_ranges(&self) -> &[IovaRange] {
        &self.parts
    }
}

impl fmt::Debug for ScatterMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.parts.first().map(|part| part.start()), self.parts.last().map(|part| part.end()));
        let memory = self.mapped.memory();
        write!(f, "ScatterMap({} parts from {first:x?} to {last:x?} of {memory:?})", self.parts.len())
    }
}
