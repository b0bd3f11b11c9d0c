//! Memory mapped for devices, which is unmapped before it is freed.

use super::arena::{IovaAllocation, WindowKind};
use super::registered::RegisteredMemory;
use super::{Dma, DmaError, OutOfBounds};
use crate::addr::{IovaRange, PageShift, UserAddr, UserRange};
use crate::host::Errno;
use crate::permission::Permission;
use crate::space::{MapRequest, Overlap, UnmapError};
use std::sync::Arc;

/// Whole IOMMU pages of memory that are mapped.
pub(super) struct Mapped {
    dma: Dma,
    memory: Arc<RegisteredMemory>,
    user: UserRange,
    iova: IovaRange,
    /// `None` after it was unmapped.
    allocation: Option<IovaAllocation>,
}

impl Mapped {
    /// Maps the IOMMU pages that hold `user`, a part of `memory`, where all open devices reach
    /// them.
    pub(super) fn new(
        dma: &Dma,
        memory: &Arc<RegisteredMemory>,
        user: UserRange,
        permission: Permission,
    ) -> Result<Self, DmaError> {
        Self::in_best_window(dma, |kind| Self::in_window(dma, kind, memory, user, permission))
    }

    /// Maps by `map` in the best window that takes it.
    pub(super) fn in_best_window<T>(dma: &Dma, map: impl Fn(WindowKind) -> Result<T, DmaError>) -> Result<T, DmaError> {
        let mut refused = None;
        for kind in dma.windows()? {
            // The next one has smaller pages, or more room.
            match map(kind) {
                Err(error)
                    if error.is_no_room()
                        || matches!(error, DmaError::PageTooLarge { .. } | DmaError::Unaligned { .. }) =>
                {
                    refused.get_or_insert(error);
                }
                result => return result,
            }
        }
        Err(refused.unwrap_or(DmaError::NoDevice))
    }

    /// Maps them in one window.
    pub(super) fn in_window(
        dma: &Dma,
        kind: WindowKind,
        memory: &Arc<RegisteredMemory>,
        user: UserRange,
        permission: Permission,
    ) -> Result<Self, DmaError> {
        let user = Self::whole_pages(dma, kind, memory, user)?;
        let allocation = dma.allocate(kind, user.len())?;
        let request = MapRequest { iova: allocation.range(), user: user.start(), permission };
        Self::at(dma, memory, user, allocation, &[request])
    }

    /// Returns the IOMMU pages of a window that hold `user`, if they are all of `memory` and it
    /// serves such pages.
    pub(super) fn whole_pages(
        dma: &Dma,
        kind: WindowKind,
        memory: &Arc<RegisteredMemory>,
        user: UserRange,
    ) -> Result<UserRange, DmaError> {
        let page = dma.page_of(kind)?;
        let whole = memory.shared.range();
        if memory.max_iommu_page < page {
            return Err(DmaError::PageTooLarge { user: whole, max_iommu_page: memory.max_iommu_page, page });
        }
        let start = page.floor(user.start().0);
        let pages = page.ceil(user.end().0).and_then(|end| UserRange::between(UserAddr(start), UserAddr(end)));
        pages.filter(|user| whole.contains_range(user)).ok_or(DmaError::Unaligned { user: whole, page })
    }

    /// Maps `requests` at `allocation`, all or none; `user` is the memory at its beginning.
    pub(super) fn at(
        dma: &Dma,
        memory: &Arc<RegisteredMemory>,
        user: UserRange,
        allocation: IovaAllocation,
        requests: &[MapRequest],
    ) -> Result<Self, DmaError> {
        match dma.space().map_all(requests, Overlap::Refuse) {
            Ok(()) => {
                let memory = Arc::clone(memory);
                Ok(Self { dma: dma.clone(), memory, user, iova: allocation.range(), allocation: Some(allocation) })
            }
            Err(error) => {
                dma.give_back(allocation);
                Err(error.into())
            }
        }
    }

    /// Allocates and maps at least `bytes`, in whole pages of `backing`.
    pub(super) fn of_new_memory(
        dma: &Dma,
        kind: WindowKind,
        backing: PageShift,
        bytes: u64,
        permission: Permission,
    ) -> Result<Self, DmaError> {
        let too_much = DmaError::Memory { bytes, page: backing, errno: Errno::ENOMEM };
        let size = backing.ceil(bytes).ok_or(too_much)?;
        let memory = RegisteredMemory::new(dma.space().registry(), size, backing)?;
        let all = memory.shared.range();
        let outside = OutOfBounds { offset: 0, len: bytes, size: all.len() };
        Self::in_window(dma, kind, &memory, all.prefix(bytes).ok_or(outside)?, permission)
    }

    pub(super) fn memory(&self) -> &Arc<RegisteredMemory> {
        &self.memory
    }

    /// Returns the bus addresses of `user`, which must lie in it.
    pub(super) fn iova_of(&self, user: UserRange) -> Result<IovaRange, OutOfBounds> {
        let offset = user.start().0.wrapping_sub(self.user.start().0);
        let iova = self.iova.subrange(offset, user.len());
        iova.ok_or(OutOfBounds { offset, len: user.len(), size: self.iova.len() })
    }

    /// Returns the bus addresses of its first `bytes`.
    pub(super) fn first(&self, bytes: u64) -> Result<IovaRange, OutOfBounds> {
        let outside = OutOfBounds { offset: 0, len: bytes, size: self.iova.len() };
        self.iova.prefix(bytes).ok_or(outside)
    }

    /// Returns the bus addresses of all of it.
    pub(super) fn iova(&self) -> IovaRange {
        self.iova
    }

    /// Returns whether it is still mapped.
    pub(super) fn is_there(&self) -> bool {
        self.allocation.is_some()
    }

    pub(super) fn dma(&self) -> &Dma {
        &self.dma
    }

    /// Unmaps it. An error leaves it mapped.
    pub(super) fn unmap(&mut self) -> Result<(), UnmapError> {
        let Some(allocation) = &self.allocation else { return Ok(()) };
        if !self.dma.owns(allocation) {
            // Its window went with the last group, and these bus addresses may be another's by now.
            self.allocation = None;
            return Ok(());
        }
        match self.dma.space().unmap(self.iova) {
            // The last group was detached, and all windows with it.
            Ok(_) | Err(UnmapError::NoWindow { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(allocation) = self.allocation.take() {
            self.dma.give_back(allocation);
        }
        Ok(())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if !self.dma.is_here() {
            return;
        }
        if let Err(error) = self.unmap() {
            tracing::error!(%error, "memory stays mapped until the process ends");
            if self.memory.shared.is_lent() {
                // Its owner is about to use it again, and cannot be made to wait.
                std::process::abort();
            }
            // A device may still reach it, so it must never be reused.
            core::mem::forget(Arc::clone(&self.memory));
        }
    }
}
