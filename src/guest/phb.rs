//! A guest's PCI host bridge: its DMA windows, and the devices of the host attached to it.

use super::Directory;
use super::error::HcallError;
use super::liobn::Liobn;
use super::ram::{AddMemoryError, GuestRam};
use super::stats::Counters;
use super::table::{Backing, TceTable};
use crate::addr::{Iova, IovaRange, PageShift, RangeError};
use crate::kvm::{Acceleration, KvmError};
use crate::space::{AddressSpace, AttachError, MapError, Overlap, WindowError};
use crate::window::{DEFAULT_PAGE, WindowRequest};
use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Largest number of TCEs in a table: 512 GiB of them, which no host has.
const MAX_ENTRIES: u64 = 1 << 36;

/// Configuration of a PHB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhbConfig {
    /// Bus unit ID, with which RTAS calls name it.
    pub buid: u64,
    /// Of the default window; the dynamic one has the next. A second dynamic one, which takes the
    /// default window's place when the guest has removed that, takes its LIOBN as well.
    pub liobn: Liobn,
    /// The default window, with 4 KiB pages. On a host it starts at bus address 0: 1 GiB on
    /// pseries, 2 GiB on powernv.
    pub default: IovaRange,
    /// Start of the dynamic window while no device of the host requires another.
    pub dynamic: Iova,
    /// Bit n: dynamic windows with pages of 2^n bytes may be offered.
    pub pages: u64,
    /// The most TCEs of a dynamic window.
    pub entries: u64,
    /// The most bytes a guest can make the table of one window take: 8 for each TCE near one that
    /// differs from its neighbours. A call that needs more gets `H_NOT_ENOUGH_RESOURCES`. `None` is
    /// 16 MiB and a 64th of the guest's RAM.
    pub table_memory: Option<u64>,
}

impl PhbConfig {
    /// A PHB like QEMU's: a default window of 1 GiB, the dynamic one at 2^59 with pages of 4 KiB,
    /// 64 KiB, 2 MiB and 16 MiB and at most 2^31 TCEs.
    pub fn new(buid: u64, liobn: Liobn) -> Result<Self, PhbError> {
        let default = IovaRange::new(Iova(0), 1 << 30)?;
        let pages = [PageShift::P4K, PageShift::P64K, PageShift::P2M, PageShift::P16M];
        let pages = pages.iter().fold(0, |mask, page| mask | page.bytes());
        let (dynamic, entries) = (Iova(1 << 59), 1 << 31);
        let config = Self { buid, liobn, default, dynamic, pages, entries, table_memory: None };
        config.check()?;
        Ok(config)
    }

    /// Refuses windows and LIOBNs that make no sense.
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

/// Why a PHB is not added, or a device not attached. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum PhbError {
    /// Another PHB has its BUID.
    #[error("there is a PHB with BUID {buid:#x}")]
    BuidTaken { buid: u64 },
    /// Another table has its LIOBN.
    #[error("there is a table with {liobn}")]
    LiobnTaken {
        /// The LIOBN.
        liobn: Liobn,
    },
    /// No PHB has the BUID.
    #[error("there is no PHB with BUID {buid:#x}")]
    NoPhb {
        /// The BUID.
        buid: u64,
    },
    /// The PHB was removed from its guest.
    #[error("the PHB with BUID {buid:#x} was removed: add it again, and use that")]
    Removed {
        /// The BUID.
        buid: u64,
    },
    /// A PHB with devices is not removed.
    #[error("group {group} is attached to the PHB with BUID {buid:#x}: detach it before the PHB is removed")]
    InUse {
        /// The BUID.
        buid: u64,
        /// One of its groups.
        group: u32,
    },
    /// No LIOBN is left for the dynamic window.
    #[error(
        "a PHB's dynamic window has the LIOBN after its default window's, and none follows {liobn}: give it a lower one"
    )]
    LastLiobn {
        /// The LIOBN.
        liobn: Liobn,
    },
    /// A range is empty or wraps.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// The windows are not sound.
    #[error(
        "default window {default}, dynamic one at {dynamic} with up to {entries:#x} TCEs: whole pages are needed, they may not \
         overlap, and a table has at most {MAX_ENTRIES:#x} TCEs"
    )]
    Windows { default: IovaRange, dynamic: Iova, entries: u64 },
    /// A group cannot be attached or detached.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The host cannot have a window that the guest has.
    #[error("the host cannot have the guest's window {window}: {why}")]
    Window {
        window: IovaRange,
        /// Why; part of the message, so no source.
        why: WindowError,
    },
    /// The host has such a window elsewhere.
    #[error("the guest's window {window} would start at {start} on this host: use a host with the same windows")]
    Elsewhere { window: IovaRange, start: Iova },
    /// What the guest has mapped is no longer RAM.
    #[error(transparent)]
    Table(#[from] HcallError),
    /// What the guest has mapped cannot be mapped for the device.
    #[error(transparent)]
    Map(#[from] MapError),
    /// KVM does not accept the group.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// A PCI host bridge of a guest.
pub struct Phb {
    config: PhbConfig,
    pub(super) ram: Arc<GuestRam>,
    pub(super) directory: Arc<Directory>,
    /// Dropped before the space, so that KVM has released its windows when they are removed.
    pub(super) kvm: Option<Acceleration>,
    space: AddressSpace,
    /// Read by translations, which are lock-free.
    tables: ArcSwap<Vec<Arc<TceTable>>>,
    /// Groups of the host. Locked by everything that changes windows or groups.
    pub(super) groups: Mutex<Vec<u32>>,
    /// Set by [`GuestIommu::remove_phb`](super::GuestIommu::remove_phb), with `groups` held.
    removed: AtomicBool,
    pub(super) counters: Arc<Counters>,
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
            tables: ArcSwap::default(),
            groups: Mutex::default(),
            removed: AtomicBool::new(false),
            counters: Arc::default(),
        };
        match phb.enter(phb.accelerate(TceTable::new(config.liobn, config.default, DEFAULT_PAGE))) {
            true => Ok(phb),
            false => Err(PhbError::LiobnTaken { liobn: config.liobn }),
        }
    }

    /// Returns its configuration.
    pub fn config(&self) -> &PhbConfig {
        &self.config
    }

    /// Returns the address space that its devices of the host see.
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// Returns its windows: the default one, if the guest still has it, and the dynamic one.
    pub fn tables(&self) -> Arc<Vec<Arc<TceTable>>> {
        self.tables.load_full()
    }

    /// Returns its windows without cloning their `Arc`s.
    pub(super) fn tables_now(&self) -> Guard<Arc<Vec<Arc<TceTable>>>> {
        self.tables.load()
    }

    pub(super) fn default_table(&self) -> Option<Arc<TceTable>> {
        self.tables().iter().find(|table| self.is_default(table)).cloned()
    }

    /// Whether it is the default window, and not a dynamic one in its place.
    pub(super) fn is_default(&self, table: &TceTable) -> bool {
        self.is_default_window(table.liobn(), table.window(), table.page())
    }

    fn is_default_window(&self, liobn: Liobn, window: IovaRange, page: PageShift) -> bool {
        (liobn, window, page) == (self.config.liobn, self.config.default, DEFAULT_PAGE)
    }

    /// Whether such a window may be one of the PHB's.
    pub(super) fn may_have(&self, liobn: Liobn, window: IovaRange, page: PageShift) -> bool {
        let config = &self.config;
        let entries = window.len() >> page.get();
        let sound = config.pages & page.bytes() != 0
            && window.is_aligned(page)
            && entries.is_power_of_two()
            && entries <= config.entries;
        let second = liobn == config.liobn && config.default.contains_range(&window);
        self.is_default_window(liobn, window, page) || (sound && (liobn == config.dynamic_liobn() || second))
    }

    /// Takes a table out that no device sees. A hypercall that is on its way to it is refused.
    pub(super) fn retire(&self, table: &TceTable) {
        let mut writer = table.lock();
        self.release_from_kvm(table);
        writer.behind = Backing::Removed;
        self.forget(table.liobn());
    }

    /// Takes the PHB out of its guest: all of its windows go, and it gets no others.
    pub(super) fn remove(&self) -> Result<(), PhbError> {
        let groups = self.groups.lock();
        if let Some(&group) = groups.first() {
            return Err(PhbError::InUse { buid: self.config.buid, group });
        }
        self.removed.store(true, Ordering::Relaxed);
        self.tables().iter().for_each(|table| self.retire(table));
        Ok(())
    }

    /// Refuses what is asked of a PHB that was removed. With `groups` held.
    pub(super) fn is_there(&self) -> Result<(), PhbError> {
        match self.removed.load(Ordering::Relaxed) {
            true => Err(PhbError::Removed { buid: self.config.buid }),
            false => Ok(()),
        }
    }

    /// Makes a table available to hypercalls and translations; returns false if its LIOBN is taken.
    pub(super) fn enter(&self, table: Arc<TceTable>) -> bool {
        let free = self.directory.insert(&table);
        if free {
            self.tables.rcu(|tables| tables.iter().chain([&table]).cloned().collect::<Vec<_>>());
        }
        free
    }

    /// Removes a table from hypercalls and translations.
    pub(super) fn forget(&self, liobn: Liobn) {
        self.directory.remove(liobn);
        self.tables.rcu(|tables| tables.iter().filter(|table| table.liobn() != liobn).cloned().collect::<Vec<_>>());
    }

    /// Attaches an IOMMU group of the host: its devices see what the guest has mapped, with one MAP
    /// per run, and what it maps from now on. Refused, before the kernel is called, if the host
    /// cannot have the guest's windows.
    pub fn attach(&self, group: u32) -> Result<(), PhbError> {
        let mut groups = self.groups.lock();
        self.is_there()?;
        let tables = self.tables();
        let mut writers: Vec<_> = tables.iter().map(|table| table.lock()).collect();
        if !groups.is_empty() {
            self.sync_from_kvm(&tables)?;
        }
        self.space.attach(group)?;
        let up = if groups.is_empty() { self.bring_up(&tables) } else { Ok(()) };
        if let Err(error) = up.and_then(|()| self.add_to_kvm(group)) {
            self.space.detach(group)?;
            return Err(error);
        }
        groups.push(group);
        writers.iter_mut().for_each(|writer| writer.behind = Backing::Devices(self.space.clone()));
        Ok(())
    }

    /// Detaches a group. The guest's tables stay as they are.
    pub fn detach(&self, group: u32) -> Result<(), PhbError> {
        let mut groups = self.groups.lock();
        let tables = self.tables();
        let mut writers: Vec<_> = tables.iter().map(|table| table.lock()).collect();
        if groups.contains(&group) {
            self.remove_from_kvm(group)?;
            self.sync_from_kvm(&tables)?;
        }
        if let Err(error) = self.space.detach(group) {
            // It stays attached, with everything below it.
            if groups.contains(&group) {
                self.add_to_kvm(group)?;
            }
            return Err(error.into());
        }
        groups.retain(|other| *other != group);
        if groups.is_empty() {
            writers.iter_mut().for_each(|writer| writer.behind = Backing::Nothing);
        }
        Ok(())
    }

    /// Checks that the memory can serve the pages of the host's windows.
    pub(super) fn reaches(&self, max_iommu_page: PageShift) -> Result<(), AddMemoryError> {
        let windows = self.space.status().windows;
        match windows.iter().map(|(window, _)| window).find(|window| window.page > max_iommu_page) {
            Some(window) => Err(AddMemoryError::Page { max_iommu_page, window: window.range, page: window.page }),
            None => Ok(()),
        }
    }

    /// Creates the guest's windows on the host and maps what is in them.
    fn bring_up(&self, tables: &[Arc<TceTable>]) -> Result<(), PhbError> {
        if self.default_table().is_none() {
            let window = self.config.default;
            self.space.drop_default_window().map_err(|why| PhbError::Window { window, why })?;
        }
        for table in tables {
            self.make_window(table)?;
        }
        let mut requests = Vec::new();
        for table in tables {
            requests.extend(table.requests(&self.ram)?);
        }
        Ok(self.space.map_all(&requests, Overlap::Refuse)?)
    }

    /// Creates a window of the host for one of the guest's, whose place is known.
    fn make_window(&self, table: &TceTable) -> Result<(), PhbError> {
        let window = table.window();
        let refused = |why| PhbError::Window { window, why };
        if self.is_default(table) {
            let host = self.space.reserve(window).map_err(refused)?;
            return match host.page <= DEFAULT_PAGE {
                true => Ok(()),
                false => Err(PhbError::Elsewhere { window, start: host.range.start() }),
            };
        }
        let request = self.host_window(table.page(), window.len());
        let planned = self.space.plan(&request).map_err(refused)?.window.start;
        if let Some(start) = planned.filter(|start| *start != window.start()) {
            return Err(PhbError::Elsewhere { window, start });
        }
        let start = self.space.create_window(&request).map_err(refused)?.range.start();
        match start == window.start() {
            true => Ok(()),
            false => Err(PhbError::Elsewhere { window, start }),
        }
    }

    /// Returns the request to the host for a window of the guest: the largest page that is no
    /// larger than the guest's and that its RAM can serve. One page of the guest may be several of
    /// the host's.
    pub(super) fn host_window(&self, page: PageShift, size: u64) -> WindowRequest {
        let max_iommu_page = self.ram.max_iommu_page().unwrap_or(PageShift::P4K);
        WindowRequest::bytes(size).max_iommu_page(page.min(max_iommu_page))
    }
}
