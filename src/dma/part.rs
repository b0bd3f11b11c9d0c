//! Shares pages between small buffers: IOMMU pages are mapped, and host pages registered, as a
//! whole.

use super::arena::WindowKind;
use super::mapped::Mapped;
use super::{Dma, DmaError, IovaSpan, Iovas, OutOfBounds};
use crate::addr::{IovaRange, PageShift};
use crate::permission::Permission;
use parking_lot::Mutex;
use std::sync::{Arc, Weak};

/// Parts begin on a multiple of this: the page size that devices assume.
const UNIT: PageShift = PageShift::P4K;

/// A page that is mapped until its last part goes.
pub(super) struct Page {
    mapped: Mapped,
    kind: WindowKind,
    permission: Permission,
    free: Mutex<Iovas>,
}

/// A part of a page.
pub(super) struct Part {
    page: Arc<Page>,
    iova: IovaRange,
    /// `None` after it was freed.
    span: Option<IovaSpan>,
}

/// The pages in use; a page goes with its last part.
#[derive(Default)]
pub(super) struct Pages(Vec<Weak<Page>>);

impl Part {
    /// Allocates `bytes`, zeroed, in a page with room, or in a new one of `size`.
    pub(super) fn take(
        dma: &Dma,
        kind: WindowKind,
        size: PageShift,
        bytes: u64,
        permission: Permission,
    ) -> Result<Self, DmaError> {
        let mut pages = dma.pages();
        let found = pages.0.iter().rev().filter_map(Weak::upgrade).find_map(|page| {
            let alike = page.kind == kind && page.permission == permission;
            let span = alike.then(|| page.free.lock().allocate(bytes, UNIT)).flatten()?;
            Some((page, span))
        });
        if let Some((page, span)) = found {
            let part = Self::new(page, span, bytes)?;
            part.mapped().memory().write(part.offset(), &vec![0; part.iova.len() as usize])?;
            return Ok(part);
        }
        let mapped = Mapped::of_new_memory(dma, kind, size, size.bytes(), permission)?;
        let mut free = Iovas::new(mapped.iova(), UNIT);
        let no_room = DmaError::NoRoom { bytes, window: mapped.iova(), largest: free.largest_free() };
        let span = free.allocate(bytes, UNIT).ok_or(no_room)?;
        let page = Arc::new(Page { mapped, kind, permission, free: Mutex::new(free) });
        pages.0.retain(|page| page.strong_count() > 0);
        pages.0.push(Arc::downgrade(&page));
        Self::new(page, span, bytes)
    }

    /// Makes the first `bytes` of `span` the part.
    fn new(page: Arc<Page>, span: IovaSpan, bytes: u64) -> Result<Self, DmaError> {
        let whole = span.range();
        // An error drops it, which frees the span.
        let mut part = Self { page, iova: whole, span: Some(span) };
        let outside = OutOfBounds { offset: 0, len: bytes, size: whole.len() };
        part.iova = whole.prefix(bytes).ok_or(outside)?;
        Ok(part)
    }

    pub(super) fn mapped(&self) -> &Mapped {
        &self.page.mapped
    }

    /// Returns where it begins in the page's memory, bytes.
    pub(super) fn offset(&self) -> u64 {
        self.iova.start().0 - self.page.mapped.iova().start().0
    }

    /// Returns its bus addresses.
    pub(super) fn iova(&self) -> IovaRange {
        self.iova
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
