//! Shares pages between small buffers: IOMMU pages are mapped, and host pages registered, as a
//! whole.

use super::arena::WindowKind;
use super::mapped::Mapped;
use super::{Dma, DmaError, IovaSpan, Iovas};
use crate::addr::{IovaRange, PageShift};
use crate::permission::Permission;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// Parts begin on a multiple of this: the page size that devices assume.
const UNIT: PageShift = PageShift::P4K;

/// A page that is mapped until its last part goes.
pub(super) struct Page {
    mapped: Mapped,
    which: WindowKind,
    permission: Permission,
    free: Mutex<Iovas>,
}

/// A part of a page.
pub(super) struct Part {
    page: Arc<Page>,
    /// `None` after it was freed.
    span: Option<IovaSpan>,
}

/// The pages there are. Those whose parts are all gone are gone.
#[derive(Default)]
pub(super) struct Pages(Vec<Weak<Page>>);

impl Part {
    /// Allocates `bytes`, zeroed, in a page with room, or in a new one of `size`.
    pub(super) fn take(
        dma: &Dma,
        which: WindowKind,
        size: PageShift,
        bytes: u64,
        permission: Permission,
    ) -> Result<Self, DmaError> {
        let mut pages = dma.pages();
        let found = pages.0.iter().rev().filter_map(Weak::upgrade).find_map(|page| {
            let alike = page.which == which && page.permission == permission;
            let span = alike.then(|| page.free.lock().allocate(bytes, UNIT)).flatten()?;
            Some(Self { page, span: Some(span) })
        });
        if let Some(part) = found {
            let (offset, range) = part.place(bytes);
            part.mapped().leased().write(offset, &vec![0; range.len() as usize])?;
            return Ok(part);
        }
        let mapped = Mapped::of_new_memory(dma, which, size, size.bytes(), permission)?;
        let mut free = Iovas::new(mapped.iova(), UNIT);
        let no_room = DmaError::NoRoom { bytes, window: mapped.iova(), largest: free.largest_free() };
        let span = free.allocate(bytes, UNIT).ok_or(no_room)?;
        let page = Arc::new(Page { mapped, which, permission, free: Mutex::new(free) });
        pages.0.retain(|page| page.strong_count() > 0);
        pages.0.push(Arc::downgrade(&page));
        Ok(Self { page, span: Some(span) })
    }

    pub(super) fn mapped(&self) -> &Mapped {
        &self.page.mapped
    }

    /// Returns where its first `bytes` lie, in the memory and on the bus.
    pub(super) fn place(&self, bytes: u64) -> (u64, IovaRange) {
        let whole = self.page.mapped.iova();
        let range = self.span.as_ref().map_or(whole, IovaSpan::range);
        (range.start().0 - whole.start().0, IovaRange::new(range.start(), bytes).unwrap_or(range))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(span) = self.span.take()
            && self.page.mapped.dma().is_here()
        {
            self.page.free.lock().free(span);
        }
    }
}
