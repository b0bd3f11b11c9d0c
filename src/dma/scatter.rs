//! Scatter-gather: many parts of one memory, mapped together with few calls.

use super::arena::WindowKind;
use super::mapped::Mapped;
use super::memory::RegisteredMemory;
use super::{DmaError, DmaMemory, OutOfBounds};
use crate::addr::{Iova, IovaRange, UserRange};
use crate::permission::Permission;
use crate::space::MapRequest;
use std::sync::Arc;

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
        Mapped::in_best_window(self.dma(), |which| self.map_users(which, &users, permission))
    }

    fn map_users(
        &self,
        which: WindowKind,
        users: &[UserRange],
        permission: Permission,
    ) -> Result<ScatterMap, DmaError> {
        let (dma, leased) = (self.dma(), self.leased());
        let pages = users.iter().map(|user| Mapped::whole_pages(dma, which, leased, *user));
        let runs = runs(pages.collect::<Result<_, DmaError>>()?);
        let bytes = runs.iter().map(|run| run.user.len()).sum();
        let outside = OutOfBounds { offset: 0, len: bytes, size: self.size() };
        let first = runs.first().ok_or(outside)?.user;
        let place = dma.allocate(which, bytes)?;
        let start = place.range().start().0;
        let request = |run: &Run| {
            let iova = IovaRange::new(Iova(start + run.at), run.user.len()).ok()?;
            Some(MapRequest { iova, user: run.user.start(), permission })
        };
        let requests: Option<Vec<_>> = runs.iter().map(request).collect();
        let parts: Option<Vec<_>> = users.iter().map(|user| iova_of(&runs, start, *user)).collect();
        let (Some(requests), Some(parts)) = (requests, parts) else {
            dma.give_back(place);
            return Err(outside.into());
        };
        Ok(ScatterMap { mapped: Mapped::at(dma, leased, first, place, &requests)?, parts })
    }
}

/// Joins pages that touch or overlap, and places what is left side by side.
fn runs(mut pages: Vec<UserRange>) -> Vec<Run> {
    pages.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for user in pages {
        let at = runs.last().map_or(0, |last| last.at + last.user.len());
        match runs.last_mut() {
            Some(last) if user.start() <= last.user.end() => {
                last.user = UserRange::between(last.user.start(), last.user.end().max(user.end())).unwrap_or(last.user);
            }
            _ => runs.push(Run { user, at }),
        }
    }
    runs
}

/// Where devices see `user`, a part of one of the runs.
fn iova_of(runs: &[Run], start: u64, user: UserRange) -> Option<IovaRange> {
    let after = runs.partition_point(|run| run.user.start() <= user.start());
    let run = runs.get(after.checked_sub(1)?).filter(|run| run.user.contains_range(&user))?;
    IovaRange::new(Iova(start + run.at + (user.start().0 - run.user.start().0)), user.len()).ok()
}

impl ScatterMap {
    /// Where devices see the parts, in the order in which they were given.
    pub fn iova_ranges(&self) -> &[IovaRange] {
        &self.parts
    }

    pub(super) fn leased(&self) -> &Arc<RegisteredMemory> {
        self.mapped.leased()
    }
}
