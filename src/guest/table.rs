//! A guest's TCE table: a DMA window as the guest sees it, named by its LIOBN.

use super::entries::{Entries, Sparse};
use super::error::HcallError;
use super::memory::GuestMemory;
use super::ram::{GuestRam, Snapshot};
use super::read_mostly::ReadMostly;
use super::runs::{self, Pages, Requests, Run};
use super::stats::Counters;
use super::writer::{Backing, Writer, WriterGuard, WriterLock};
use crate::addr::{GuestRange, Iova, IovaRange, Liobn, PageShift, UserAddr};
use crate::space::{AddressSpace, MapRequest, Overlap, UnmapError};
use crate::uapi::papr::hcall::MAX_INDIRECT;
use arrayvec::ArrayVec;
use core::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Bytes that a table may take whatever the guest's RAM: enough for 2 Mi TCEs that differ.
const BASE_MEMORY: u64 = 16 << 20;
/// Bytes of RAM for each further byte: enough to map all RAM 8 times with 4 KiB pages.
const RAM_PER_MEMORY: u64 = 64;

/// Returns the most bytes that a table's entries may take, with that configuration.
pub(super) fn memory_limit(configured: Option<u64>, ram: &Snapshot) -> u64 {
    configured.unwrap_or_else(|| BASE_MEMORY.saturating_add(ram.bytes() / RAM_PER_MEMORY))
}

/// Unmaps what is mapped in `range`.
pub(super) fn clear(space: &AddressSpace, range: IovaRange) -> Result<(), UnmapError> {
    match space.unmap(range) {
        // The host creates its default window at the first map.
        Ok(_) | Err(UnmapError::NoWindow { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A DMA window as a guest has it: its TCEs, by page, in a flat table.
///
/// Reads are lock-free. Writers hold a lock and, with devices on the PHB, update the kernel first.
pub struct TceTable {
    liobn: Liobn,
    window: IovaRange,
    page: PageShift,
    entries: Entries,
    /// The most bytes its entries may take; `None` follows the guest's RAM.
    memory: Option<u64>,
    /// The PHB's.
    counters: Arc<Counters>,
    writer: WriterLock,
}

impl TceTable {
    /// Creates an empty table in the library's own memory, which is counted in `all_bytes` of the
    /// PHB.
    pub(super) fn new(liobn: Liobn, window: IovaRange, page: PageShift, all_bytes: &Arc<AtomicU64>) -> Self {
        Self::over(liobn, window, page, Entries::Sparse(Sparse::new(window.len() >> page.get(), all_bytes)))
    }

    /// Creates a table over existing storage of entries.
    pub(super) fn over(liobn: Liobn, window: IovaRange, page: PageShift, entries: Entries) -> Self {
        Self { liobn, window, page, entries, memory: None, counters: Arc::default(), writer: WriterLock::default() }
    }

    /// Limits the memory its entries take: see
    /// [`PhbConfig::table_memory`](super::PhbConfig::table_memory).
    pub(super) fn limited(self, memory: Option<u64>) -> Self {
        Self { memory, ..self }
    }

    /// Counts its hypercalls in the counters of its PHB.
    pub(super) fn counted(self, counters: &Arc<Counters>) -> Self {
        Self { counters: Arc::clone(counters), ..self }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the most bytes its entries may take.
    pub(super) fn memory_limit(&self, ram: &Snapshot) -> u64 {
        memory_limit(self.memory, ram)
    }

    /// Returns its LIOBN.
    pub fn liobn(&self) -> Liobn {
        self.liobn
    }

    /// Returns its bus addresses.
    #[inline]
    pub fn window(&self) -> IovaRange {
        self.window
    }

    /// Returns the page of an entry.
    #[inline]
    pub fn page(&self) -> PageShift {
        self.page
    }

    /// Returns the number of entries.
    #[allow(clippy::len_without_is_empty, reason = "a window is never empty")]
    pub fn len(&self) -> u64 {
        self.window.len() >> self.page.get()
    }

    /// Returns the index of the first entry of `count` pages at `ioba`.
    #[inline]
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

    /// Does the same for one page, without a division of the window into pages.
    #[inline]
    pub(super) fn index_of(&self, ioba: u64) -> Result<u64, HcallError> {
        let offset = ioba.wrapping_sub(self.window.start().0);
        if ioba & self.page.mask() == 0 && offset < self.window.len() {
            return Ok(offset >> self.page.get());
        }
        self.index(ioba, 1)
    }

    /// Returns whether the kernel keeps it and answers the guest's calls for it.
    pub fn is_in_kernel(&self) -> bool {
        self.entries.is_in_kernel()
    }

    /// Returns the entry at `index`; 0 if none was ever written.
    #[inline]
    pub(super) fn load(&self, index: u64) -> u64 {
        self.entries.load(index)
    }

    pub(super) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Returns the bus addresses of entries.
    fn iova(&self, first: u64, count: u64) -> Result<IovaRange, HcallError> {
        let start = Iova(self.window.start().0 + (first << self.page.get()));
        let outside = |_| HcallError::Outside { ioba: start, count, window: self.window };
        IovaRange::new(start, count << self.page.get()).map_err(outside)
    }

    /// Locks the table for writing.
    pub(super) fn lock(&self) -> WriterGuard<'_> {
        self.writer.lock()
    }

    /// Sets the entry at `index`, which the caller has checked.
    #[inline]
    pub(super) fn put_one(&self, ram: &GuestRam, index: u64, tce: u64) -> Result<(), HcallError> {
        if let Some(_short) = self.writer.try_short()
            && self.put_alone(ram, index, tce)
        {
            return Ok(());
        }
        self.put_with_lock(ram, index, tce)
    }

    /// Sets one entry of a table without devices; returns false if that takes more than a look at
    /// the RAM and a store. The caller has short access.
    #[inline]
    fn put_alone(&self, ram: &GuestRam, index: u64, tce: u64) -> bool {
        // With the lock held: a removal of memory marks the slot, then waits for the lock.
        let is_ram = || ram.read(|now| self.user(now, ram.memory(), tce).is_some());
        (runs::permission(tce).is_none() || is_ram()) && self.entries.try_store(index, tce)
    }

    /// Sets one entry with the lock. Where devices see the table, a TCE that maps goes to them
    /// without the buffers of a list.
    #[inline(never)]
    fn put_with_lock(&self, ram: &GuestRam, index: u64, tce: u64) -> Result<(), HcallError> {
        let writer = &mut *self.lock();
        ram.read(|now| {
            if let Backing::Space(space) = &writer.backing
                && !self.is_in_kernel()
                && let Some(permission) = runs::permission(tce)
                && let Some(user) = self.user(now, ram.memory(), tce)
            {
                self.entries.reserve(index, &[tce], &|| self.memory_limit(now))?;
                let iova = self.iova(index, 1)?;
                space.map_all(&[MapRequest { iova, user, permission }], Overlap::Replace)?;
                if !self.entries.try_store(index, tce) {
                    self.entries.store(index, &[tce]);
                }
                return Ok(());
            }
            self.put_locked(writer, Pages::new(now).present_in(ram.memory()), index, &[tce])
        })
    }

    /// Returns the user memory to which a TCE leads, if one slot holds it that may be mapped and
    /// that the VMM still has.
    #[inline]
    fn user(&self, now: &Snapshot, memory: &dyn GuestMemory, tce: u64) -> Option<UserAddr> {
        let at = runs::address(tce, self.page)?;
        now.slot(at, self.page.bytes()).filter(|slot| memory.has(slot)).map(|slot| slot.user(at))
    }

    /// Sets `values` at `first`, all or none: checks them all, updates the kernel, then stores
    /// them. The caller has checked the indices.
    pub(super) fn put(&self, ram: &GuestRam, first: u64, values: &[u64]) -> Result<(), HcallError> {
        let writer = &mut *self.lock();
        // With the lock held: a removal of memory marks the slot, then waits for the lock.
        ram.read(|now| self.put_locked(writer, Pages::new(now).present_in(ram.memory()), first, values))
    }

    fn put_locked(
        &self,
        writer: &mut Writer,
        mut pages: Pages<'_>,
        first: u64,
        values: &[u64],
    ) -> Result<(), HcallError> {
        let Writer { backing, runs, requests } = writer;
        let ram = pages.ram();
        let space = match backing {
            Backing::Removed => return Err(HcallError::NoTable { liobn: self.liobn }),
            Backing::None => {
                pages.check_list(values, self.page)?;
                self.entries.reserve(first, values, &|| self.memory_limit(ram))?;
                self.entries.store(first, values);
                return Ok(());
            }
            Backing::Space(space) => space,
        };
        if self.is_in_kernel() {
            self.sync_entries(space, pages.including_unplugging(), (first, values.len() as u64), requests)?;
        }
        runs.clear();
        runs.extend(runs::runs(first, values, self.page));
        requests.clear();
        for run in &*runs {
            requests.add(run, self.iova(run.first, run.count)?, self.page, &mut pages)?;
        }
        self.entries.reserve(first, values, &|| self.memory_limit(ram))?;
        if !runs.iter().all(Run::maps) {
            return self.put_and_clear(space, requests, runs);
        }
        space.map_all(requests.as_slice(), Overlap::Replace)?;
        self.entries.store(first, values);
        Ok(())
    }

    /// Sets runs some of which clear: mappings are stored before anything is unmapped, so that
    /// table and devices agree if the kernel refuses halfway.
    fn put_and_clear(&self, space: &AddressSpace, requests: &Requests, runs: &[Run]) -> Result<(), HcallError> {
        if !requests.as_slice().is_empty() {
            space.map_all(requests.as_slice(), Overlap::Replace)?;
            runs.iter().filter(|run| run.maps()).for_each(|run| self.store_run(run));
        }
        for run in runs.iter().filter(|run| !run.maps()) {
            clear(space, self.iova(run.first, run.count)?)?;
            self.store_run(run);
        }
        Ok(())
    }

    /// Stores `value`, which gives no rights, in `count` entries.
    pub(super) fn stuff(&self, ram: &GuestRam, first: u64, count: u64, value: u64) -> Result<(), HcallError> {
        let Writer { backing, requests, .. } = &mut *self.lock();
        match backing {
            Backing::Removed => return Err(HcallError::NoTable { liobn: self.liobn }),
            Backing::Space(space) if self.is_in_kernel() => {
                let ram = ram.snapshot();
                self.sync_entries(space, Pages::new(&ram).including_unplugging(), (first, count), requests)?;
            }
            _ => {}
        }
        self.entries.reserve_fill(first, count, value, &|| self.memory_limit(&ram.snapshot()))?;
        match backing {
            Backing::Space(space) if count != 0 => clear(space, self.iova(first, count)?)?,
            _ => {}
        }
        self.entries.fill(first, count, value);
        Ok(())
    }

    /// Stores a run. Its room and its pages were checked, and the devices' space maps it, if there
    /// is one.
    pub(super) fn store_run(&self, run: &Run) {
        if !run.maps() {
            self.entries.fill(run.first, run.count, run.tce);
            return;
        }
        let step = run.step(self.page);
        let mut first = run.first;
        let mut tces = (0..run.count).map(|n| run.tce.wrapping_add(n.wrapping_mul(step)));
        let mut part = ArrayVec::<u64, { MAX_INDIRECT as usize }>::new();
        loop {
            part.clear();
            part.extend(tces.by_ref().take(part.capacity()));
            if part.is_empty() {
                return;
            }
            self.entries.store(first, &part);
            first += part.len() as u64;
        }
    }

    /// Returns everything the table maps, as requests to a space, in order.
    pub(super) fn requests(&self, ram: &GuestRam) -> Result<Vec<MapRequest>, HcallError> {
        let mut requests = Requests::default();
        let ram = ram.snapshot();
        // RAM whose removal was refused is still mapped.
        let mut pages = Pages::new(&ram).including_unplugging();
        let mut result = Ok(());
        self.each_mapping(0, self.len(), &mut |first, tce| {
            if result.is_ok() {
                let run = Run { first, count: 1, tce };
                result = self.iova(first, 1).and_then(|iova| requests.add(&run, iova, self.page, &mut pages));
            }
        });
        result.map(|()| requests.into_vec())
    }

    /// Syncs the space with what the kernel mapped in the table. The caller holds the lock.
    pub(super) fn sync_from_kvm(&self, space: &AddressSpace, ram: &GuestRam) -> Result<(), HcallError> {
        if !self.is_in_kernel() {
            return Ok(());
        }
        let ram = ram.snapshot();
        let pages = Pages::new(&ram).including_unplugging();
        self.sync_entries(space, pages, (0, self.len()), &mut Requests::default())
    }

    /// Does the same for `count` entries from `first` on, with a buffer that it clears first.
    fn sync_entries(
        &self,
        space: &AddressSpace,
        mut pages: Pages<'_>,
        (first, count): (u64, u64),
        requests: &mut Requests,
    ) -> Result<(), HcallError> {
        if count == 0 {
            return Ok(());
        }
        requests.clear();
        self.each_mapping(first, count, &mut |index, tce| {
            let run = Run { first: index, count: 1, tce };
            // The kernel has not mapped what leads to no RAM.
            let _ = self.iova(index, 1).and_then(|iova| requests.add(&run, iova, self.page, &mut pages));
        });
        Ok(space.record_from_kvm(self.iova(first, count)?, requests.as_slice())?)
    }

    /// Appends the bus addresses that lead into `range` of the guest's memory.
    pub(super) fn mappings_of(&self, range: GuestRange, found: &mut Vec<IovaRange>) {
        let _writer = self.lock();
        let page = self.page;
        self.entries.runs(0, self.len(), &mut |first, count, value| {
            let leads = runs::permission(value).and_then(|_| runs::address(value, page));
            let overlaps = leads
                .and_then(|at| GuestRange::new(at, page.bytes()).ok())
                .is_some_and(|there| there.intersection(&range).is_some());
            let Some(iova) = self.iova(first, count).ok().filter(|_| overlaps) else { return };
            match found.last_mut() {
                Some(last) if last.end() == iova.start() => *last = last.hull(&iova),
                _ => found.push(iova),
            }
        });
    }

    /// Calls `visit` with every entry other than 0, in order: index and TCE.
    pub fn each(&self, visit: &mut dyn FnMut(u64, u64)) {
        self.each_run(&mut |first, count, tce| (first..first + count).for_each(|index| visit(index, tce)));
    }

    /// Calls `visit` with every stretch of one TCE that is not 0, in order: its first entry, how
    /// many, the TCE.
    pub(super) fn each_run(&self, visit: &mut dyn FnMut(u64, u64, u64)) {
        self.entries.runs(0, self.len(), visit);
    }

    /// Calls `visit` with each run of equal entries among `count` from `first` on: index, length,
    /// and whether they give rights.
    #[cfg(feature = "inspect")]
    pub(super) fn each_run_in(&self, first: u64, count: u64, visit: &mut dyn FnMut(u64, u64, bool)) {
        self.entries.runs(first, count, &mut |first, count, tce| visit(first, count, runs::permission(tce).is_some()));
    }

    /// Calls `visit` with every entry of `count` from `first` on that gives rights, in order.
    fn each_mapping(&self, first: u64, count: u64, visit: &mut dyn FnMut(u64, u64)) {
        self.entries.runs(first, count, &mut |first, count, tce| {
            if runs::permission(tce).is_some() {
                (first..first + count).for_each(|index| visit(index, tce));
            }
        });
    }

    /// Clears all entries.
    pub(super) fn clear_entries(&self) {
        self.entries.fill(0, self.len(), 0);
    }
}

impl fmt::Debug for TceTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let in_kernel = if self.is_in_kernel() { ", in the kernel" } else { "" };
        write!(f, "TceTable({}, {}, pages of {}{in_kernel})", self.liobn(), self.window(), self.page())
    }
}

/// Tables, in order of their LIOBNs.
pub(super) type Tables = Vec<(Liobn, Arc<TceTable>)>;

fn find(tables: &Tables, liobn: Liobn) -> Result<usize, usize> {
    tables.binary_search_by_key(&liobn, |(liobn, _)| *liobn)
}

/// The tables of all PHBs.
#[derive(Default)]
pub(super) struct Directory(ReadMostly<Tables>);

impl Directory {
    /// Returns the tables.
    pub(super) fn load(&self) -> Arc<Tables> {
        self.0.load()
    }

    /// Calls `act` with the table that has that LIOBN, if there is one. Lock-free.
    #[inline]
    pub(super) fn with<R>(&self, liobn: Liobn, act: impl FnOnce(Option<&Arc<TceTable>>) -> R) -> R {
        self.0.read(|tables| act(find(tables, liobn).ok().map(|at| &tables[at].1)))
    }

    /// Inserts a table; returns false if another one has its LIOBN.
    pub(super) fn insert(&self, table: &Arc<TceTable>) -> bool {
        self.0.update(|tables| {
            let mut tables = tables.clone();
            let free = find(&tables, table.liobn());
            if let Err(at) = free {
                tables.insert(at, (table.liobn(), Arc::clone(table)));
            }
            (tables, free.is_err())
        })
    }

    pub(super) fn has(&self, liobn: Liobn) -> bool {
        self.with(liobn, |table| table.is_some())
    }

    pub(super) fn remove(&self, liobn: Liobn) {
        self.0.update(|tables| (tables.iter().filter(|(other, _)| *other != liobn).cloned().collect(), ()));
    }
}

#[cfg(test)]
mod tests {
    use crate::addr::{GuestAddr, PageShift};
    use crate::guest::{GuestIommu, HcallError, Liobn, PhbConfig, Slots};
    use crate::host::Host;
    use crate::model::Model;
    use crate::pci::Group;
    use crate::registry::Registry;
    use std::sync::Arc;

    const LIOBN: Liobn = Liobn(0x8000_0000);

    fn guest() -> GuestIommu {
        let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
        let slots = Slots::new();
        slots.insert(GuestAddr(0), &model.share(1 << 20, PageShift::P64K).unwrap()).unwrap();
        let iommu = GuestIommu::new(&Registry::new(model), Arc::new(slots));
        iommu.add_memory().unwrap();
        iommu.add_phb(PhbConfig::new(1, LIOBN).unwrap()).unwrap();
        iommu
    }

    /// Removes the window after a hypercall found its table and before it has the table's lock.
    fn too_late(attached: bool, remove: impl Fn(&GuestIommu)) {
        let iommu = guest();
        let phb = iommu.phb(1).unwrap();
        if attached {
            phb.attach(Group(0)).unwrap();
        }
        let table = iommu.table(LIOBN).unwrap();
        table.put(iommu.ram(), 0, &[3]).unwrap();
        remove(&iommu);
        let gone = Err(HcallError::NoTable { liobn: LIOBN });
        assert_eq!(table.put(iommu.ram(), 1, &[3]), gone);
        assert_eq!(table.put(iommu.ram(), 1, &[0]), gone);
        assert_eq!(table.stuff(iommu.ram(), 0, 1, 0), gone);
        assert_eq!(phb.space().mapped(), (0, 0), "no device sees what came too late");
    }

    #[test]
    fn a_hypercall_on_its_way_to_a_window_that_was_removed_is_refused() {
        for attached in [false, true] {
            too_late(attached, |iommu| iommu.phb(1).unwrap().remove_window(LIOBN).unwrap());
        }
    }

    #[test]
    fn a_hypercall_on_its_way_to_a_window_that_was_replaced_is_refused() {
        too_late(false, |iommu| iommu.restore(&iommu.save()).unwrap());
        too_late(false, |iommu| iommu.remove_phb(1).unwrap());
    }
}
