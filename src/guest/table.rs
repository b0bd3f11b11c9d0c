//! A guest's TCE table: a DMA window as the guest sees it, named by its LIOBN.

use super::entries::{Entries, Sparse};
use super::error::HcallError;
use super::liobn::Liobn;
use super::ram::GuestRam;
use super::runs::{self, Requests, Run};
use super::tce;
use crate::addr::{GuestRange, Iova, IovaRange, PageShift};
use crate::space::{AddressSpace, MapRequest, Overlap, UnmapError};
use parking_lot::{Mutex, MutexGuard};

/// The backing that a change of a table must reach.
#[derive(Debug)]
pub(super) enum Behind {
    /// No devices: the table is all there is.
    Nothing,
    /// Devices, which see this space.
    Devices(AddressSpace),
    /// The window was removed while a hypercall was in progress.
    Removed,
}

/// Write access to the table, with a buffer reused across calls.
#[derive(Debug)]
pub(super) struct Writer {
    pub behind: Behind,
    requests: Requests,
}

/// Unmaps what is mapped in `range`.
pub(super) fn clear(space: &AddressSpace, range: IovaRange) -> Result<(), UnmapError> {
    match space.unmap(range) {
        // A default window of the host that still waits for its first map.
        Ok(_) | Err(UnmapError::NoWindow { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A DMA window as a guest has it: its TCEs, by page, in a flat table.
///
/// Reads are lock-free. Writers hold a lock and, if the table has devices, update the kernel first.
#[derive(Debug)]
pub struct TceTable {
    liobn: Liobn,
    window: IovaRange,
    page: PageShift,
    entries: Box<dyn Entries>,
    writer: Mutex<Writer>,
}

impl TceTable {
    /// Creates an empty table in the library's own memory.
    pub(super) fn new(liobn: Liobn, window: IovaRange, page: PageShift) -> Self {
        Self::over(liobn, window, page, Box::new(Sparse::new(window.len() >> page.get())))
    }

    /// Creates a table over existing storage of entries.
    pub(super) fn over(liobn: Liobn, window: IovaRange, page: PageShift, entries: Box<dyn Entries>) -> Self {
        let writer = Mutex::new(Writer { behind: Behind::Nothing, requests: Requests::default() });
        Self { liobn, window, page, entries, writer }
    }

    /// Returns its LIOBN.
    pub fn liobn(&self) -> Liobn {
        self.liobn
    }

    /// Returns its bus addresses.
    pub fn window(&self) -> IovaRange {
        self.window
    }

    /// Returns the page of an entry.
    pub fn page(&self) -> PageShift {
        self.page
    }

    /// Returns the number of entries.
    #[allow(clippy::len_without_is_empty, reason = "a window is never empty")]
    pub fn len(&self) -> u64 {
        self.window.len() >> self.page.get()
    }

    /// Returns the index of the first entry of `count` pages at `ioba`.
    pub(super) fn index(&self, ioba: u64, count: u64) -> Result<u64, HcallError> {
        let (at, page) = (Iova(ioba), self.page);
        if ioba & page.mask() != 0 {
            return Err(HcallError::Misaligned { ioba: at, page });
        }
        let first = ioba.checked_sub(self.window.start().0).map(|offset| offset >> page.get());
        match first.filter(|first| first.checked_add(count).is_some_and(|end| *first < self.len() && end <= self.len()))
        {
            Some(first) => Ok(first),
            None => Err(HcallError::Outside { ioba: at, count, window: self.window }),
        }
    }

    /// Returns whether the kernel keeps it and answers the guest's calls for it.
    pub fn is_kept(&self) -> bool {
        self.entries.changes_by_itself()
    }

    /// Returns the entry at `index`; 0 if none was ever written.
    pub(super) fn load(&self, index: u64) -> u64 {
        self.entries.load(index)
    }

    /// Returns the bus addresses of entries.
    fn iova(&self, first: u64, count: u64) -> Result<IovaRange, HcallError> {
        let start = Iova(self.window.start().0 + (first << self.page.get()));
        let outside = HcallError::Outside { ioba: start, count, window: self.window };
        IovaRange::new(start, count << self.page.get()).map_err(|_| outside)
    }

    /// Locks the table for writing.
    pub(super) fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock()
    }

    /// Sets `values` at `first`, all or none: checks them all, updates the kernel, then stores
    /// them. The caller has checked the indices.
    pub(super) fn put(&self, ram: &GuestRam, first: u64, values: &[u64]) -> Result<(), HcallError> {
        let Writer { behind, requests } = &mut *self.lock();
        // Taken with the lock held: a thread that removes memory marks it, and then waits for the
        // lock.
        let ram = ram.snapshot();
        let mut pages = runs::Pages::new(&ram);
        let space = match behind {
            Behind::Removed => return Err(HcallError::NoTable { liobn: self.liobn }),
            Behind::Nothing => {
                pages.check_all(values, self.page)?;
                self.entries.store(first, values);
                return Ok(());
            }
            Behind::Devices(space) => space,
        };
        if self.is_kept() {
            self.observe_in(space, pages.even_leaving(), first, values.len() as u64)?;
        }
        requests.clear();
        let mut clears = false;
        for run in runs::runs(values, self.page) {
            clears |= tce::permission(run.tce).is_none();
            requests.add(&run, self.iova(first + run.first, run.count)?, self.page, &mut pages)?;
        }
        if clears {
            return self.put_and_clear(space, requests, first, values);
        }
        space.map_all(requests.get(), Overlap::Replace)?;
        self.entries.store(first, values);
        Ok(())
    }

    /// Does the same if some of the values clear: mappings are stored before anything is unmapped,
    /// so that table and devices agree if the kernel refuses halfway.
    fn put_and_clear(
        &self,
        space: &AddressSpace,
        requests: &Requests,
        first: u64,
        values: &[u64],
    ) -> Result<(), HcallError> {
        let enter = |run: &Run| {
            let part = values.get(run.first as usize..(run.first + run.count) as usize).unwrap_or_default();
            self.entries.store(first + run.first, part);
        };
        if !requests.get().is_empty() {
            space.map_all(requests.get(), Overlap::Replace)?;
            runs::runs(values, self.page).filter(|run| tce::permission(run.tce).is_some()).for_each(|run| enter(&run));
        }
        for run in runs::runs(values, self.page).filter(|run| tce::permission(run.tce).is_none()) {
            clear(space, self.iova(first + run.first, run.count)?)?;
            enter(&run);
        }
        Ok(())
    }

    /// Stores `value`, which gives no rights, in `count` entries.
    pub(super) fn stuff(&self, ram: &GuestRam, first: u64, count: u64, value: u64) -> Result<(), HcallError> {
        let writer = self.lock();
        match &writer.behind {
            Behind::Removed => return Err(HcallError::NoTable { liobn: self.liobn }),
            Behind::Devices(space) if self.is_kept() => self.observe(space, ram, first, count)?,
            _ => {}
        }
        match &writer.behind {
            Behind::Devices(space) if count != 0 => clear(space, self.iova(first, count)?)?,
            _ => {}
        }
        self.entries.fill(first, count, value);
        Ok(())
    }

    /// Returns everything the table maps, as requests to a space, in order.
    pub(super) fn requests(&self, ram: &GuestRam) -> Result<Vec<MapRequest>, HcallError> {
        let mut requests = Requests::default();
        let ram = ram.snapshot();
        // RAM whose removal was refused is still mapped.
        let mut pages = runs::Pages::new(&ram).even_leaving();
        let mut result = Ok(());
        self.entries.each(0, self.len(), &mut |first, tce| {
            if result.is_ok() {
                let run = Run { first, count: 1, tce };
                result = self.iova(first, 1).and_then(|iova| requests.add(&run, iova, self.page, &mut pages));
            }
        });
        result.map(|()| requests.into_vec())
    }

    /// Syncs the space with what the kernel mapped for `count` entries from `first` on. The caller
    /// holds the lock.
    pub(super) fn observe(
        &self,
        space: &AddressSpace,
        ram: &GuestRam,
        first: u64,
        count: u64,
    ) -> Result<(), HcallError> {
        if !self.is_kept() || count == 0 {
            return Ok(());
        }
        self.observe_in(space, runs::Pages::new(&ram.snapshot()).even_leaving(), first, count)
    }

    fn observe_in(
        &self,
        space: &AddressSpace,
        mut pages: runs::Pages<'_>,
        first: u64,
        count: u64,
    ) -> Result<(), HcallError> {
        let mut found = Requests::default();
        self.entries.each(first, count, &mut |index, tce| {
            let run = Run { first: index, count: 1, tce };
            // The kernel has not mapped what leads to no RAM.
            let _ = self.iova(index, 1).and_then(|iova| found.add(&run, iova, self.page, &mut pages));
        });
        if count != 0 {
            space.observe(self.iova(first, count)?, found.get())?;
        }
        Ok(())
    }

    /// Appends the bus addresses that lead into `range` of the guest's memory.
    pub(super) fn pointing(&self, range: GuestRange, found: &mut Vec<IovaRange>) {
        let _writer = self.lock();
        let page = self.page;
        self.entries.each(0, self.len(), &mut |index, value| {
            let leads = tce::permission(value).and_then(|_| tce::address(value, page));
            let overlaps = leads
                .and_then(|at| GuestRange::new(at, page.bytes()).ok())
                .is_some_and(|there| there.intersection(&range).is_some());
            let Some(iova) = self.iova(index, 1).ok().filter(|_| overlaps) else { return };
            match found.last_mut() {
                Some(last) if last.end() == iova.start() => {
                    *last = IovaRange::between(last.start(), iova.end()).unwrap_or(*last);
                }
                _ => found.push(iova),
            }
        });
    }

    /// Calls `visit` with every entry other than 0, in order: index and TCE.
    pub fn each(&self, visit: &mut dyn FnMut(u64, u64)) {
        self.entries.each(0, self.len(), visit);
    }

    /// Stores entries that no device sees: those of a saved table.
    pub(super) fn restore(&self, first: u64, values: &[u64]) {
        self.entries.store(first, values);
    }

    /// Clears all entries.
    pub(super) fn forget(&self) {
        self.entries.fill(0, self.len(), 0);
    }
}
