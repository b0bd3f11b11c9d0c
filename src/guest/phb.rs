//! A guest's PCI host bridge: its DMA windows, and the devices of the host attached to it.

use super::error::HcallError;
use super::ram::{AddMemoryError, GuestRam};
use super::read_mostly::ReadMostly;
use super::stats::{Counters, HcallStats};
use super::table::{Directory, TceTable};
use super::translate::View;
use super::writer::Backing;
use crate::addr::{Iova, IovaRange, Liobn, PageShift, RangeError};
use crate::kvm::{Acceleration, KvmError};
use crate::pci::Group;
use crate::space::{AddressSpace, AttachError, MapError, Overlap, WindowError};
use crate::window::{DEFAULT_PAGE, Want, WindowRequest};
use core::fmt;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use thread_local::ThreadLocal;

/// Maximum TCEs in a table: they would take 512 GiB.
const MAX_ENTRIES: u64 = 1 << 36;

/// Configuration of a PHB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PhbConfig {
    /// Bus unit ID, with which RTAS calls name it.
    pub buid: u64,
    /// LIOBN of the default window; the dynamic window has the next one. A second dynamic window,
    /// which takes the default window's place after the guest removed that, has its LIOBN as well.
    pub liobn: Liobn,
    /// The default window, with 4 KiB pages. On a host it starts at bus address 0: 1 GiB on
    /// pseries, 2 GiB on powernv.
    pub default: IovaRange,
    /// Start of the dynamic window while no device of the host is attached.
    pub dynamic: Iova,
    /// Page sizes of dynamic windows: bit n stands for pages of 2^n bytes.
    pub pages: u64,
    /// The most TCEs of a dynamic window.
    pub entries: u64,
    /// The most bytes that a guest can make the table of one window take: a leaf of 512 TCEs takes
    /// 4 KiB unless all are equal. A call that needs more gets `H_NOT_ENOUGH_RESOURCES`. `None`
    /// stands for 16 MiB plus 1/64 of the guest's RAM.
    pub table_memory: Option<u64>,
}

impl PhbConfig {
    /// Configures a PHB like QEMU's: a default window of 1 GiB, the dynamic one at 2^59 with pages
    /// of 4 KiB, 64 KiB, 2 MiB and 16 MiB and at most 2^31 TCEs.
    pub fn new(buid: u64, liobn: Liobn) -> Result<Self, PhbError> {
        let default = IovaRange::new(Iova(0), 1 << 30)?;
        let pages = [PageShift::P4K, PageShift::P64K, PageShift::P2M, PageShift::P16M];
        let pages = pages.iter().fold(0, |mask, page| mask | page.bytes());
        let (dynamic, entries) = (Iova(1 << 59), 1 << 31);
        let config = Self { buid, liobn, default, dynamic, pages, entries, table_memory: None };
        config.check()?;
        Ok(config)
    }

    /// Sets the default window.
    pub fn with_default_window(self, default: IovaRange) -> Self {
        Self { default, ..self }
    }

    /// Sets the start of the dynamic window.
    pub fn with_dynamic_window(self, dynamic: Iova) -> Self {
        Self { dynamic, ..self }
    }

    /// Sets the most TCEs of a dynamic window.
    pub fn with_entries(self, entries: u64) -> Self {
        Self { entries, ..self }
    }

    /// Limits the bytes that the table of each window may take.
    pub fn with_table_memory(self, bytes: u64) -> Self {
        Self { table_memory: Some(bytes), ..self }
    }

    /// Refuses windows and LIOBNs that no PHB can have.
    pub(super) fn check(&self) -> Result<(), PhbError> {
        let Self { liobn, default, dynamic, entries, .. } = *self;
        if liobn.0 == u32::MAX {
            return Err(PhbError::LastLiobn { liobn });
        }
        let large = entries > MAX_ENTRIES || default.len() >> DEFAULT_PAGE.get() > MAX_ENTRIES;
        if large || !default.is_aligned(DEFAULT_PAGE) || dynamic.0 & ((1 << 34) - 1) != 0 || dynamic < default.end() {
            return Err(PhbError::Windows { default, dynamic, entries });
        }
        Ok(())
    }

    /// Returns the LIOBN of the dynamic window.
    pub(super) fn dynamic_liobn(&self) -> Liobn {
        Liobn(self.liobn.0.wrapping_add(1))
    }
}

/// Why a PHB was not added, or a group not attached. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum PhbError {
    /// Another PHB has its BUID.
    #[error("there is already a PHB with BUID {buid:#x}: give this one another")]
    BuidTaken { buid: u64 },
    /// Another table has its LIOBN.
    #[error("there is already a table with {liobn}: give this PHB other LIOBNs")]
    LiobnTaken { liobn: Liobn },
    /// No PHB has the BUID.
    #[error("there is no PHB with BUID {buid:#x}")]
    NoPhb { buid: u64 },
    /// The PHB was removed from its guest.
    #[error("the PHB with BUID {buid:#x} was removed: add one again and use that")]
    Removed { buid: u64 },
    /// Groups are attached to the PHB.
    #[error("group {group} is attached to the PHB with BUID {buid:#x}: detach it before removing the PHB")]
    InUse { buid: u64, group: Group },
    /// No LIOBN is left for the dynamic window.
    #[error(
        "no LIOBN follows {liobn}, and a PHB's dynamic window has the one after its default window's: give it a lower one"
    )]
    LastLiobn { liobn: Liobn },
    /// A window is empty or wraps.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The windows overlap, are not whole pages, or are too large.
    #[error(
        "a PHB cannot have a default window {default} and a dynamic one at {dynamic} of up to {entries:#x} TCEs: windows \
         are whole pages and do not overlap, a dynamic one starts at a multiple of 16 GiB, and a table has at most \
         {MAX_ENTRIES:#x} TCEs"
    )]
    Windows { default: IovaRange, dynamic: Iova, entries: u64 },
    /// A group cannot be attached or detached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The host cannot have one of the guest's windows.
    #[error("the host cannot have the guest's window {window}: {why}")]
    Window {
        window: IovaRange,
        /// Why; part of the message, so no source.
        why: WindowError,
    },
    /// The host would have one of the guest's windows at another place.
    #[error("the guest's window {window} would start at {start} on this host: use a host with the same windows")]
    Elsewhere { window: IovaRange, start: Iova },
    /// The guest maps what is no longer RAM.
    #[error(transparent)]
    Table(#[from] HcallError),
    /// What the guest maps cannot be mapped for the devices.
    #[error(transparent)]
    Map(#[from] MapError),
    /// KVM refuses the group.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

crate::error::classify!(PhbError {
    Argument: LastLiobn, Windows;
    NotFound: NoPhb, Removed;
    Busy: BuidTaken, LiobnTaken, InUse;
    Unsupported: Elsewhere;
    inner: Range.0, Attach.0, Window.why, Table.0, Map.0, Kvm.0;
});

/// A PCI host bridge of a guest.
pub struct Phb {
    config: PhbConfig,
    pub(super) ram: Arc<GuestRam>,
    pub(super) directory: Arc<Directory>,
    /// Dropped before the space, so that KVM releases its windows before they are removed.
    pub(super) kvm: Option<Acceleration>,
    space: AddressSpace,
    /// Read lock-free by translations.
    pub(super) tables: ReadMostly<Vec<Arc<TceTable>>>,
    /// Attached groups of the host. Everything that changes windows or groups holds this lock.
    pub(super) groups: Mutex<Vec<Group>>,
    /// Set by [`GuestIommu::remove_phb`](super::GuestIommu::remove_phb) with `groups` locked.
    removed: AtomicBool,
    pub(super) counters: Arc<Counters>,
    /// Bytes of the tables' entries.
    pub(super) table_bytes: Arc<AtomicU64>,
    /// What each thread translates by.
    pub(super) views: ThreadLocal<RefCell<View>>,
}

impl Phb {
    pub(super) fn new(
        config: PhbConfig,
        ram: Arc<GuestRam>,
        directory: Arc<Directory>,
        kvm: Option<Acceleration>,
    ) -> Result<Self, PhbError> {
        let space = AddressSpace::new(ram.registry());
        let phb = Self {
            config,
            ram,
            directory,
            kvm,
            space,
            tables: ReadMostly::default(),
            groups: Mutex::default(),
            removed: AtomicBool::new(false),
            counters: Arc::default(),
            table_bytes: Arc::default(),
            views: ThreadLocal::new(),
        };
        if !phb.add_table(phb.accelerate(TceTable::new(config.liobn, config.default, DEFAULT_PAGE, &phb.table_bytes))) {
            return Err(PhbError::LiobnTaken { liobn: config.liobn });
        }
        Ok(phb)
    }

    /// Returns the configuration given at creation.
    pub fn config(&self) -> &PhbConfig {
        &self.config
    }

    /// Returns the address space that its devices of the host see.
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// Returns its windows: the default one, if the guest still has it, and the dynamic one.
    pub fn tables(&self) -> Arc<Vec<Arc<TceTable>>> {
        self.tables.load()
    }

    pub(super) fn default_table(&self) -> Option<Arc<TceTable>> {
        self.tables().iter().find(|table| self.is_default(table)).cloned()
    }

    /// Returns whether it is the default window, and not a dynamic one in its place.
    pub(super) fn is_default(&self, table: &TceTable) -> bool {
        self.is_default_window(table.liobn(), table.window(), table.page())
    }

    fn is_default_window(&self, liobn: Liobn, window: IovaRange, page: PageShift) -> bool {
        (liobn, window, page) == (self.config.liobn, self.config.default, DEFAULT_PAGE)
    }

    /// Returns whether the PHB may have such a window.
    pub(super) fn may_have(&self, liobn: Liobn, window: IovaRange, page: PageShift) -> bool {
        let config = &self.config;
        let entries = window.len() >> page.get();
        let allowed = config.pages & page.bytes() != 0
            && window.is_aligned(page)
            && entries.is_power_of_two()
            && entries <= config.entries;
        let second = liobn == config.liobn && config.default.contains_range(&window);
        self.is_default_window(liobn, window, page) || (allowed && (liobn == config.dynamic_liobn() || second))
    }

    /// Removes a table that no device sees. A hypercall that has already found it is refused.
    pub(super) fn retire(&self, table: &TceTable) {
        let mut writer = table.lock();
        self.release_from_kvm(table);
        writer.backing = Backing::Removed;
        self.remove_table(table.liobn());
    }

    /// Removes the PHB from its guest, with all of its windows; it gets no others.
    pub(super) fn remove(&self) -> Result<(), PhbError> {
        let groups = self.groups.lock();
        if let Some(&group) = groups.first() {
            return Err(PhbError::InUse { buid: self.config.buid, group });
        }
        self.removed.store(true, Ordering::Relaxed);
        self.tables().iter().for_each(|table| self.retire(table));
        Ok(())
    }

    /// Fails if the PHB was removed. The caller has locked `groups`.
    pub(super) fn check_present(&self) -> Result<(), PhbError> {
        if self.removed.load(Ordering::Relaxed) {
            return Err(PhbError::Removed { buid: self.config.buid });
        }
        Ok(())
    }

    /// Makes a table available to hypercalls and translations; returns false if its LIOBN is taken.
    pub(super) fn add_table(&self, table: Arc<TceTable>) -> bool {
        let free = self.directory.insert(&table);
        if free {
            self.tables.update(|tables| (tables.iter().chain([&table]).cloned().collect(), ()));
        }
        free
    }

    /// Removes a table from hypercalls and translations.
    pub(super) fn remove_table(&self, liobn: Liobn) {
        self.directory.remove(liobn);
        let others = |table: &&Arc<TceTable>| table.liobn() != liobn;
        self.tables.update(|tables| (tables.iter().filter(others).cloned().collect(), ()));
    }

    /// Attaches an IOMMU group of the host: its devices see what the guest has mapped, with one MAP
    /// per run, and what it maps from now on. Refused, before the kernel is called, if the host
    /// cannot have the guest's windows.
    pub fn attach(&self, group: Group) -> Result<(), PhbError> {
        let mut groups = self.groups.lock();
        self.check_present()?;
        let tables = self.tables();
        let mut writers: Vec<_> = tables.iter().map(|table| table.lock()).collect();
        if !groups.is_empty() {
            self.sync_from_kvm(&tables)?;
        }
        self.space.attach(group)?;
        let created = if groups.is_empty() { self.create_on_host(&tables) } else { Ok(()) };
        if let Err(error) = created.and_then(|()| self.add_to_kvm(group)) {
            self.space.detach(group)?;
            return Err(error);
        }
        groups.push(group);
        writers.iter_mut().for_each(|writer| writer.backing = Backing::Space(self.space.clone()));
        Ok(())
    }

    /// Detaches a group. The guest's tables stay as they are.
    pub fn detach(&self, group: Group) -> Result<(), PhbError> {
        let mut groups = self.groups.lock();
        let tables = self.tables();
        let mut writers: Vec<_> = tables.iter().map(|table| table.lock()).collect();
        if groups.contains(&group) {
            self.remove_from_kvm(group)?;
            self.sync_from_kvm(&tables)?;
        }
        if let Err(error) = self.space.detach(group) {
            // It stays attached.
            if groups.contains(&group) {
                self.add_to_kvm(group)?;
            }
            return Err(error.into());
        }
        groups.retain(|other| *other != group);
        if groups.is_empty() {
            writers.iter_mut().for_each(|writer| writer.backing = Backing::None);
        }
        Ok(())
    }

    /// Checks that RAM of that largest page serves the pages of the host's windows.
    pub(super) fn check_page(&self, max_iommu_page: PageShift) -> Result<(), AddMemoryError> {
        let windows = self.space.status().windows;
        match windows.iter().map(|(window, _)| window).find(|window| window.page > max_iommu_page) {
            Some(window) => Err(AddMemoryError::Page { max_iommu_page, window: window.range, page: window.page }),
            None => Ok(()),
        }
    }

    /// Creates the guest's windows on the host and maps what is in them.
    fn create_on_host(&self, tables: &[Arc<TceTable>]) -> Result<(), PhbError> {
        if self.default_table().is_none() {
            let window = self.config.default;
            self.space.drop_default_window().map_err(|why| PhbError::Window { window, why })?;
        }
        for table in tables {
            self.create_host_window(table)?;
        }
        let mut requests = Vec::new();
        for table in tables {
            requests.extend(table.requests(&self.ram)?);
        }
        Ok(self.space.map_all(&requests, Overlap::Refuse)?)
    }

    /// Creates the host's window for one of the guest's, at the same bus address.
    fn create_host_window(&self, table: &TceTable) -> Result<(), PhbError> {
        let window = table.window();
        let refused = |why| PhbError::Window { window, why };
        if self.is_default(table) {
            let host = self.space.reserve(window).map_err(refused)?;
            if host.page > DEFAULT_PAGE {
                return Err(PhbError::Elsewhere { window, start: host.range.start() });
            }
            return Ok(());
        }
        let mut request = self.host_window(table.page(), window.len());
        // By its size alone, a window goes to the start of the first dynamic one.
        if self.config.default.contains_range(&window) {
            request.want = Want::Cover(window);
        }
        let planned = self.space.plan(&request).map_err(refused)?.window.start;
        if let Some(start) = planned.filter(|start| *start != window.start()) {
            return Err(PhbError::Elsewhere { window, start });
        }
        let start = self.space.create_window(&request).map_err(refused)?.range.start();
        if start != window.start() {
            return Err(PhbError::Elsewhere { window, start });
        }
        Ok(())
    }

    /// Returns the request to the host for a window of the guest: the largest page that is no
    /// larger than the guest's and that its RAM can serve, 4 KiB without RAM. One page of the guest
    /// may be several of the host's.
    pub(super) fn host_window(&self, page: PageShift, size: u64) -> WindowRequest {
        let max_iommu_page = self.ram.max_iommu_page().unwrap_or(PageShift::P4K);
        WindowRequest::bytes(size).max_iommu_page(page.min(max_iommu_page))
    }

    /// Returns the counts of hypercalls for its windows.
    pub fn stats(&self) -> HcallStats {
        self.counters.get()
    }
}

impl fmt::Debug for Phb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Phb");
        shown.field("buid", &format_args!("{:#x}", self.config().buid)).field("windows", &self.tables());
        match self.groups.try_lock() {
            Some(groups) => shown.field("groups", &groups.len()),
            None => shown.field("groups", &format_args!("changing")),
        };
        shown.finish_non_exhaustive()
    }
}
