//! Memory mapped for devices, which is unmapped before it is freed.

use super::arena::{IovaAllocation, WindowKind};
use super::memory::RegisteredMemory;
use super::{Dma, DmaError};
use crate::addr::{Iova, IovaRange, PageShift, UserAddr, UserRange};
use crate::host::Errno;
use crate::permission::Permission;
use crate::space::{MapRequest, Overlap, UnmapError};
use std::sync::Arc;

/// Whole IOMMU pages of memory that are mapped.
pub(super) struct Mapped {
    dma: Dma,
    leased: Arc<RegisteredMemory>,
    user: UserRange,
    iova: IovaRange,
    /// `None` after it was unmapped.
    place: Option<IovaAllocation>,
}

impl Mapped {
    /// Maps the IOMMU pages that hold `user`, a part of `leased`, where all open devices reach
    /// them.
    pub(super) fn new(
        dma: &Dma,
        leased: &Arc<RegisteredMemory>,
        user: UserRange,
        permission: Permission,
    ) -> Result<Self, DmaError> {
        Self::in_best_window(dma, |which| Self::in_window(dma, which, leased, user, permission))
    }

    /// Maps by `map` in the best window that takes it.
    pub(super) fn in_best_window<T>(dma: &Dma, map: impl Fn(WindowKind) -> Result<T, DmaError>) -> Result<T, DmaError> {
        let mut refused = None;
        for which in dma.windows()? {
            // The next one has smaller pages, or more room.
            match map(which) {
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
        which: WindowKind,
        leased: &Arc<RegisteredMemory>,
        user: UserRange,
        permission: Permission,
    ) -> Result<Self, DmaError> {
        let user = Self::whole_pages(dma, which, leased, user)?;
        let place = dma.allocate(which, user.len())?;
        let request = MapRequest { iova: place.range(), user: user.start(), permission };
        Self::at(dma, leased, user, place, &[request])
    }

    /// The IOMMU pages of a window that hold `user`, if they are all of `leased` and it carries
    /// such pages.
    pub(super) fn whole_pages(
        dma: &Dma,
        which: WindowKind,
        leased: &Arc<RegisteredMemory>,
        user: UserRange,
    ) -> Result<UserRange, DmaError> {
        let page = dma.page_of(which)?;
        let whole = leased.shared.range();
        if leased.max_iommu_page < page {
            return Err(DmaError::PageTooLarge { user: whole, max_iommu_page: leased.max_iommu_page, page });
        }
        let start = page.floor(user.start().0);
        let pages = page.ceil(user.end().0).and_then(|end| UserRange::between(UserAddr(start), UserAddr(end)));
        pages.filter(|user| whole.contains_range(user)).ok_or(DmaError::Unaligned { user: whole, page })
    }

    /// Maps `requests` at `place`, all or none; `user` is the memory at its beginning.
    pub(super) fn at(
        dma: &Dma,
        leased: &Arc<RegisteredMemory>,
        user: UserRange,
        place: IovaAllocation,
        requests: &[MapRequest],
    ) -> Result<Self, DmaError> {
        match dma.space().map_all(requests, Overlap::Refuse) {
            Ok(()) => {
                let leased = Arc::clone(leased);
                Ok(Self { dma: dma.clone(), leased, user, iova: place.range(), place: Some(place) })
            }
            Err(error) => {
                dma.give_back(place);
                Err(error.into())
            }
        }
    }

    /// Allocates and maps at least `bytes`, in whole pages of `backing`.
    pub(super) fn of_new_memory(
        dma: &Dma,
        which: WindowKind,
        backing: PageShift,
        bytes: u64,
        permission: Permission,
    ) -> Result<Self, DmaError> {
        let too_much = DmaError::Memory { bytes, page: backing, errno: Errno::ENOMEM };
        let size = backing.ceil(bytes).ok_or(too_much)?;
        let leased = RegisteredMemory::new(dma.space().registry(), size, backing)?;
        let all = leased.shared.range();
        let user = UserRange::new(all.start(), bytes).unwrap_or(all);
        Self::in_window(dma, which, &leased, user, permission)
    }

    pub(super) fn leased(&self) -> &Arc<RegisteredMemory> {
        &self.leased
    }

    /// Returns the bus addresses of `user`, which lies in it.
    pub(super) fn iova_of(&self, user: UserRange) -> IovaRange {
        let first = self.iova.start().0 + (user.start().0 - self.user.start().0);
        IovaRange::new(Iova(first), user.len()).unwrap_or(self.iova)
    }

    /// Returns the bus addresses of all of it.
    pub(super) fn iova(&self) -> IovaRange {
        self.iova
    }

    /// Returns whether it is still mapped.
    pub(super) fn is_there(&self) -> bool {
        self.place.is_some()
    }

    pub(super) fn dma(&self) -> &Dma {
        &self.dma
    }

    /// Unmaps it. An error leaves it mapped.
    pub(super) fn unmap(&mut self) -> Result<(), UnmapError> {
        let Some(place) = &self.place else { return Ok(()) };
        if !self.dma.owns(place) {
            // Its window went with the last group, and these bus addresses may be another's by now.
            self.place = None;
            return Ok(());
        }
        match self.dma.space().unmap(self.iova) {
            // The last group was detached, and all windows with it.
            Ok(_) | Err(UnmapError::NoWindow { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some(place) = self.place.take() {
            self.dma.give_back(place);
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
            if self.leased.shared.is_lent() {
                // Its owner is about to use it again, and cannot be made to wait.
                std::process::abort();
            }
            // A device may still reach it, so it must never be reused.
            core::mem::forget(Arc::clone(&self.leased));
        }
    }
}
