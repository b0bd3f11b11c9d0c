//! The IOMMU of a pseries guest, for VMMs: TCE tables, their hypercalls, dynamic DMA windows by
//! RTAS.
//!
//! A [`GuestIommu`] is the IOMMU a guest sees. It has the guest's registered RAM, and a [`Phb`]
//! with its DMA windows for each PCI host bridge. A window is a [`TceTable`], named by its
//! [`Liobn`]. The guest fills it with hypercalls ([`GuestIommu::hcall`]) and requests more windows
//! with RTAS calls ([`GuestIommu::rtas`]). A PHB may have devices of the host ([`Phb::attach`]):
//! then whatever the guest sets is first mapped for them, and refused if that fails. For emulated
//! devices, [`Phb::translate`] looks up where a bus address leads.
//!
//! What a guest passes is never trusted: nothing it does maps a byte outside its registered RAM,
//! and each refusal is one of the architecture's codes (LoPAR, hypervisor calls H_GET_TCE,
//! H_PUT_TCE, H_STUFF_TCE, H_PUT_TCE_INDIRECT).
//!
//! ```
//! use spapr_iommu::addr::{GuestAddr, Iova};
//! use spapr_iommu::guest::{GuestIommu, Liobn, PhbConfig, Slots};
//! use spapr_iommu::host::Host;
//! use spapr_iommu::model::Model;
//! use spapr_iommu::pci::Group;
//! use spapr_iommu::registry::Registry;
//! use spapr_iommu::uapi::papr::hcall::{H_PARAMETER, H_PUT_TCE, H_SUCCESS};
//! use std::sync::Arc;
//!
//! // 64 MiB of guest RAM at 0, in memory of a model of the kernel.
//! let host = Arc::new(Model::new("powernv9-64k".parse()?));
//! let memory = host.share(64 << 20, host.page_shift())?;
//! let slots = Slots::new();
//! slots.insert(GuestAddr(0), &memory)?;
//!
//! let iommu = GuestIommu::new(&Registry::new(host), Arc::new(slots));
//! iommu.add_memory()?;
//! let phb = iommu.add_phb(PhbConfig::new(0x800_0000_2000_0000, Liobn(0x8000_0000))?)?;
//! phb.attach(Group(0))?;
//!
//! // The hypercall as KVM passes it: maps the guest's page at 16 MiB, read-write, at IOBA 0x1000.
//! let mut args = [0x8000_0000, 0x1000, 0x100_0003, 0, 0, 0, 0, 0, 0];
//! assert_eq!(iommu.hcall(H_PUT_TCE, &mut args), Some(H_SUCCESS));
//! assert_eq!(phb.translate(Iova(0x1010)).map(|there| there.guest), Some(GuestAddr(0x100_0010)));
//! // Devices of the host see it as well.
//! assert_eq!(phb.space().translate(Iova(0x1000)).map(|there| there.user.0), Some(memory.range().start().0 + (16 << 20)));
//!
//! // There is no RAM at 64 MiB.
//! let mut args = [0x8000_0000, 0x2000, 0x400_0003, 0, 0, 0, 0, 0, 0];
//! assert_eq!(iommu.hcall(H_PUT_TCE, &mut args), Some(H_PARAMETER));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Locking
//! Each table has one writer at a time. Order: a PHB's lock, its tables', the address space's.
//! Translation and H_GET_TCE are lock-free.

mod ddw;
mod entries;
mod error;
mod hcall;
#[cfg(feature = "inspect")]
mod inspect;
mod kvm;
mod memory;
mod phb;
mod ram;
mod read_mostly;
mod rtas;
mod runs;
mod saved;
mod slots;
mod stats;
mod table;
mod translate;
#[cfg(feature = "vm-memory")]
mod vm_memory;
mod writer;

pub use crate::addr::Liobn;
pub use ddw::{DdwError, DdwOffer, ResetError};
pub use error::HcallError;
#[cfg(feature = "inspect")]
pub(crate) use inspect::{PhbStatus, Watched};
pub use memory::{GuestMemory, NoMemory, Slot, SlotOwner};
pub use phb::{Phb, PhbConfig, PhbError};
pub use ram::{AddMemoryError, GuestRam, RemoveMemoryError};
pub use rtas::{DdwTokens, Property, RtasBlock, RtasBlockError, RtasCall};
pub use saved::{RestoreError, SavedIommu, SavedPhb, SavedRun, SavedWindow, VERSION};
pub use slots::{SlotError, Slots};
pub use stats::HcallStats;
pub use table::TceTable;
pub use translate::{DeviceAccessError, GuestTranslation, Translator};
#[cfg(feature = "vm-memory")]
pub use vm_memory::{PhbIommu, VmMemory};

use crate::addr::{GuestRange, Iova};
use crate::host::Process;
use crate::kvm::Acceleration;
use crate::registry::Registry;
use core::fmt;
use core::ops::Deref;
use parking_lot::Mutex;
use std::sync::Arc;
use table::Directory;

/// The IOMMU of a guest: its RAM, its PHBs and their tables.
pub struct GuestIommu {
    ram: Arc<GuestRam>,
    directory: Arc<Directory>,
    phbs: Phbs,
    /// KVM acceleration; each PHB gets its own instance.
    kvm: Option<Acceleration>,
    /// Counts of hypercalls that name no window.
    without_table: Arc<stats::Counters>,
    /// Taken before any other lock while RAM is removed or tables are restored.
    changes: Mutex<()>,
}

/// The PHBs of a guest. They end with it even while an inspection reads them.
struct Phbs {
    list: Arc<Mutex<Vec<Arc<Phb>>>>,
    /// Process that created it.
    process: Process,
}

impl Default for Phbs {
    fn default() -> Self {
        Self { list: Arc::default(), process: Process::current() }
    }
}

impl Deref for Phbs {
    type Target = Mutex<Vec<Arc<Phb>>>;

    fn deref(&self) -> &Self::Target {
        &self.list
    }
}

impl Drop for Phbs {
    fn drop(&mut self) {
        // In a child of `fork` nobody will unlock it if a thread of the parent held it.
        let locked = if self.process.is_current() { Some(self.list.lock()) } else { self.list.try_lock() };
        let phbs = locked.map(|mut phbs| std::mem::take(&mut *phbs));
        drop(phbs);
    }
}

impl GuestIommu {
    /// Creates the IOMMU of a guest with that memory, none of which is registered yet: see
    /// [`Self::add_memory`].
    pub fn new(registry: &Registry, memory: Arc<dyn GuestMemory>) -> Self {
        let ram = Arc::new(GuestRam::new(registry, memory));
        Self {
            ram,
            directory: Arc::default(),
            phbs: Phbs::default(),
            kvm: None,
            without_table: Default::default(),
            changes: Mutex::default(),
        }
    }

    /// Creates the IOMMU of a guest on KVM: the kernel keeps the tables and answers the guest's
    /// calls itself, as far as it can. Other calls go to [`Self::hcall`] as without acceleration.
    ///
    /// No vCPU may run while groups are attached or detached, or memory is removed.
    pub fn accelerated(registry: &Registry, memory: Arc<dyn GuestMemory>, kvm: Acceleration) -> Self {
        Self { kvm: Some(kvm), ..Self::new(registry, memory) }
    }

    /// Returns the guest's RAM.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// Registers new slots of the guest's memory. Call it at the start, and after memory was
    /// plugged.
    pub fn add_memory(&self) -> Result<(), AddMemoryError> {
        self.ram.add(|max_iommu_page| self.phbs().iter().try_for_each(|phb| phb.check_page(max_iommu_page)))?;
        Ok(self.pin_ram_for_kvm()?)
    }

    /// Removes a slot. Refused while TCEs lead into it, with an error that lists them; from then on
    /// the guest cannot map it again and gets `H_PARAMETER`. Call this again after the guest has
    /// unmapped the slot, or call [`Self::keep_memory`].
    ///
    /// Under KVM the slot must be removed from the virtual machine first
    /// (`KVM_SET_USER_MEMORY_REGION`): the kernel answers hypercalls from its own slots.
    pub fn remove_memory(&self, slot: GuestRange) -> Result<(), RemoveMemoryError> {
        let _alone = self.changes.lock();
        self.ram.mark(slot, true)?;
        let mut mapped = Vec::new();
        self.directory.load().iter().for_each(|(_, table)| table.mappings_of(slot, &mut mapped));
        if !mapped.is_empty() {
            return Err(RemoveMemoryError::Mapped { slot, mapped });
        }
        let found = self.ram.slots().into_iter().find(|found| found.guest == slot);
        if let Some(user) = found.and_then(|found| found.user_range()) {
            self.unpin_for_kvm(user).map_err(|why| RemoveMemoryError::Kernel { slot, why: Box::new(why) })?;
        }
        self.ram.remove(slot).inspect_err(|_| {
            if let Err(error) = self.pin_ram_for_kvm() {
                tracing::warn!(%error, "memory that stays could not be pinned for KVM");
            }
        })
    }

    /// Keeps a slot whose removal was refused: the guest may map it again.
    pub fn keep_memory(&self, slot: GuestRange) -> Result<(), RemoveMemoryError> {
        let _alone = self.changes.lock();
        self.ram.mark(slot, false)
    }

    /// Adds a PHB with its default window.
    pub fn add_phb(&self, config: PhbConfig) -> Result<Arc<Phb>, PhbError> {
        config.check()?;
        let mut phbs = self.phbs.lock();
        if phbs.iter().any(|phb| phb.config().buid == config.buid) {
            return Err(PhbError::BuidTaken { buid: config.buid });
        }
        // A PHB owns the LIOBN of its dynamic window even while there is none.
        let new = [config.liobn, config.dynamic_liobn()];
        let mut taken = phbs.iter().flat_map(|phb| [phb.config().liobn, phb.config().dynamic_liobn()]);
        if let Some(liobn) = taken.find(|liobn| new.contains(liobn)) {
            return Err(PhbError::LiobnTaken { liobn });
        }
        let kvm = self.kvm.as_ref().map(Acceleration::for_another_phb);
        let phb = Arc::new(Phb::new(config, Arc::clone(&self.ram), Arc::clone(&self.directory), kvm)?);
        phbs.push(Arc::clone(&phb));
        Ok(phb)
    }

    /// Removes a PHB and its windows, after its groups were detached. Handles of it that are still
    /// held no longer do anything.
    pub fn remove_phb(&self, buid: u64) -> Result<(), PhbError> {
        let mut phbs = self.phbs.lock();
        let at = phbs.iter().position(|phb| phb.config().buid == buid).ok_or(PhbError::NoPhb { buid })?;
        phbs[at].remove()?;
        phbs.remove(at);
        Ok(())
    }

    /// Gives every PHB its initial windows back, as the reset of the machine does: an empty default
    /// window and no other. No vCPU may run. A PHB that cannot be reset does not keep the others
    /// from being reset; returns the first error.
    pub fn reset(&self) -> Result<(), ResetError> {
        let mut result = Ok(());
        for phb in self.phbs() {
            let buid = phb.config().buid;
            let reset = phb.reset_windows().map_err(|why| ResetError { buid, why: Box::new(why) });
            result = result.and(reset);
        }
        result
    }

    /// Returns the PHB with that bus unit ID (BUID).
    pub fn phb(&self, buid: u64) -> Option<Arc<Phb>> {
        self.phbs.lock().iter().find(|phb| phb.config().buid == buid).cloned()
    }

    /// Returns all PHBs.
    pub fn phbs(&self) -> Vec<Arc<Phb>> {
        self.phbs.lock().clone()
    }

    /// Returns the table with that LIOBN. Holding it keeps the PHB's devices attached.
    pub fn table(&self, liobn: Liobn) -> Result<Arc<TceTable>, HcallError> {
        self.with_table(liobn, |table| Ok(Arc::clone(table)))
    }

    /// Runs `act` on the table without cloning its `Arc`, which would cost more than the lookup.
    fn with_table<T>(
        &self,
        liobn: Liobn,
        act: impl FnOnce(&Arc<TceTable>) -> Result<T, HcallError>,
    ) -> Result<T, HcallError> {
        self.directory.with(liobn, |table| act(table.ok_or(HcallError::NoTable { liobn })?))
    }

    /// Translates `iova` in the window with that LIOBN.
    pub fn translate(&self, liobn: Liobn, iova: Iova) -> Option<GuestTranslation> {
        self.directory.with(liobn, |table| table?.translate(iova))
    }

    /// Returns the counts of hypercalls of all PHBs, and of those that named no window.
    pub fn stats(&self) -> HcallStats {
        self.phbs().iter().fold(self.without_table.get(), |mut all, phb| {
            let stats = phb.stats();
            all.gets += stats.gets;
            all.puts += stats.puts;
            all.indirects += stats.indirects;
            all.stuffs += stats.stuffs;
            all.tces += stats.tces;
            all.refusals.add(&stats.refusals);
            all
        })
    }
}

/// The most PHBs that `Debug` shows.
const MAX_SHOWN: usize = 4;

impl fmt::Debug for GuestIommu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("GuestIommu");
        shown.field("ram", &self.ram).field("accelerated", &self.kvm.is_some());
        if let Some(phbs) = self.phbs.try_lock() {
            shown.field("phbs", &phbs.len());
            phbs.iter().take(MAX_SHOWN).for_each(|phb| {
                shown.field("phb", phb);
            });
        }
        shown.finish_non_exhaustive()
    }
}
