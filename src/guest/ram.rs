//! Registered guest RAM: the memory a guest's TCEs may point to.

use super::error::HcallError;
use super::memory::{GuestMemory, Slot};
use crate::addr::{GuestAddr, GuestRange, IovaRange, PageShift};
use crate::registry::{Lease, RegisterError, Registry, ReleaseError};
use crate::space::MapError;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::sync::Arc;

/// Why guest RAM cannot be added. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum AddMemoryError {
    /// Slots overlap, or user memory wraps.
    #[error("{} is not sound: it overlaps other guest RAM or wraps in user memory", asked.guest)]
    Slot { asked: Slot },
    /// RAM that was added before is no longer a slot.
    #[error("{} is gone from the guest's memory: remove it from the IOMMU first", gone.guest)]
    Vanished { gone: Slot },
    /// Devices could not reach it: the host's window has larger pages than the RAM can serve.
    #[error(
        "new RAM supports pages of {max_iommu_page}, and devices reach RAM through the window {window} with pages of {page}: back it with \
         memory like that there is, or have the guest give up the window"
    )]
    Page { max_iommu_page: PageShift, window: IovaRange, page: PageShift },
    /// It cannot be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// It is registered, but could not be pinned for what KVM maps.
    #[error(transparent)]
    Hold(#[from] MapError),
}

/// Why guest RAM was not removed. It stays, but accepts no new TCE, until it is removed or kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum RemoveMemoryError {
    /// The range is not a slot.
    #[error("{asked} is no slot of guest RAM: remove a slot as it was added")]
    NoSlot { asked: GuestRange },
    /// TCEs point into it.
    #[error(
        "{asked} is mapped by the guest at {}: have the guest unmap it and remove it again, or keep it",
        List(mapped)
    )]
    Mapped {
        asked: GuestRange,
        /// Bus addresses of the guest's tables that lead there.
        mapped: Vec<IovaRange>,
    },
    /// What the kernel mapped by itself could not be counted.
    #[error(
        "what the kernel mapped of {asked} cannot be counted: {why}; stop the guest's vCPUs and remove it again, or keep it"
    )]
    Kernel {
        asked: GuestRange,
        /// Why; part of the message, so no source.
        why: Box<HcallError>,
    },
}

struct List<'a>(&'a [IovaRange]);

impl core::fmt::Display for List<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Some((first, rest)) = self.0.split_first() else { return f.write_str("an unknown place") };
        write!(f, "{first}")?;
        match rest.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Where a guest's page lies in user memory, or why it may not be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotLookup {
    /// In this slot.
    Slot(Slot),
    /// In a slot that is being removed.
    Unplugging(Slot),
    /// In no slot.
    Nowhere,
}

#[derive(Clone, Copy, Debug)]
struct Ram {
    slot: Slot,
    leaving: bool,
}

/// The slots in one snapshot, in order of guest address.
#[derive(Debug, Default)]
pub(super) struct Snapshot(Vec<Ram>);

impl Snapshot {
    /// Bytes of all slots.
    pub(super) fn bytes(&self) -> u64 {
        self.slots().fold(0, |bytes, slot| bytes.saturating_add(slot.guest.len()))
    }

    /// The slot that holds `at`.
    pub(super) fn find(&self, at: GuestAddr) -> SlotLookup {
        let behind = self.0.partition_point(|ram| ram.slot.guest.start() <= at);
        match behind.checked_sub(1).and_then(|before| self.0.get(before)) {
            Some(ram) if ram.slot.guest.contains(at) && ram.leaving => SlotLookup::Unplugging(ram.slot),
            Some(ram) if ram.slot.guest.contains(at) => SlotLookup::Slot(ram.slot),
            _ => SlotLookup::Nowhere,
        }
    }

    fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.0.iter().map(|ram| ram.slot)
    }
}

/// A guest's RAM, registered. Few regions: what is added together and continues in user memory is
/// one to the kernel.
pub struct GuestRam {
    registry: Registry,
    memory: Arc<dyn GuestMemory>,
    /// Read by hypercalls, which are lock-free.
    now: ArcSwap<Snapshot>,
    leases: Mutex<Vec<(GuestRange, Lease)>>,
}

impl GuestRam {
    /// Creates the RAM of `memory`, empty at first, to be registered in `registry`.
    pub(super) fn new(registry: &Registry, memory: Arc<dyn GuestMemory>) -> Self {
        Self { registry: registry.clone(), memory, now: ArcSwap::default(), leases: Mutex::default() }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns access to the guest's bytes, as [`RtasBlock`](super::RtasBlock) needs it.
    pub fn memory(&self) -> &dyn GuestMemory {
        self.memory.as_ref()
    }

    pub(super) fn snapshot(&self) -> arc_swap::Guard<Arc<Snapshot>> {
        self.now.load()
    }

    /// Returns the slots of RAM.
    pub fn slots(&self) -> Vec<Slot> {
        self.snapshot().slots().collect()
    }

    /// Returns the largest IOMMU page that all of it can serve; `None` without RAM.
    pub fn max_iommu_page(&self) -> Option<PageShift> {
        self.slots().iter().map(|slot| self.registry.max_iommu_page(slot.user_range()?)).min().flatten()
    }

    /// Returns the largest page all slots begin and end at, in the guest; `None` without RAM. User
    /// memory may be aligned to less: one page of the guest is then several of the host's.
    pub(super) fn aligned(&self) -> Option<PageShift> {
        let bits = self.slots().iter().fold(0, |bits, slot| bits | slot.guest.start().0 | slot.guest.len());
        (bits != 0).then(|| PageShift::new(bits.trailing_zeros().min(34)).unwrap_or(PageShift::P4K))
    }

    /// Registers new slots, unless `check` rejects the resulting page size.
    pub(super) fn add(&self, check: impl Fn(PageShift) -> Result<(), AddMemoryError>) -> Result<(), AddMemoryError> {
        let mut leases = self.leases.lock();
        let wanted = self.memory.slots();
        let now = self.snapshot();
        if let Some(gone) = now.slots().find(|slot| !wanted.contains(slot)) {
            return Err(AddMemoryError::Vanished { gone });
        }
        let mut all: Vec<Slot> = wanted.clone();
        all.sort_unstable_by_key(|slot| slot.guest.start());
        if let Some(pair) = all.windows(2).find(|pair| pair[0].guest.end() > pair[1].guest.start()) {
            return Err(AddMemoryError::Slot { asked: pair[1] });
        }
        let added: Vec<Slot> = all.iter().filter(|slot| !now.slots().any(|old| old == **slot)).copied().collect();
        let ranges = added.iter().map(|slot| slot.user_range().ok_or(AddMemoryError::Slot { asked: *slot }));
        let ranges = ranges.collect::<Result<Vec<_>, _>>()?;
        let owner = |slot: &Slot| self.memory.owner(slot).ok_or(AddMemoryError::Vanished { gone: *slot });
        let owners = added.iter().map(owner).collect::<Result<Vec<_>, _>>()?;
        let new = self.registry.register_owned(&ranges, owners.into_iter())?;
        // An early return drops the leases, which releases the memory.
        ranges.iter().filter_map(|range| self.registry.max_iommu_page(*range)).min().map_or(Ok(()), check)?;
        leases.extend(added.iter().map(|slot| slot.guest).zip(new));
        let leaving = |slot: &Slot| now.0.iter().any(|ram| ram.slot == *slot && ram.leaving);
        self.now
            .store(Arc::new(Snapshot(all.iter().map(|slot| Ram { slot: *slot, leaving: leaving(slot) }).collect())));
        Ok(())
    }

    /// Marks a slot as leaving, so that nothing new may point into it; with `leaving` false,
    /// removes the mark.
    pub(super) fn mark(&self, range: GuestRange, leaving: bool) -> Result<(), RemoveMemoryError> {
        let _leases = self.leases.lock();
        let mut rams = self.snapshot().0.clone();
        let ram = rams.iter_mut().find(|ram| ram.slot.guest == range);
        ram.ok_or(RemoveMemoryError::NoSlot { asked: range })?.leaving = leaving;
        self.now.store(Arc::new(Snapshot(rams)));
        Ok(())
    }

    /// Releases a slot nothing points into.
    pub(super) fn remove(&self, asked: GuestRange) -> Result<(), RemoveMemoryError> {
        let mut leases = self.leases.lock();
        let at = leases.iter().position(|(range, _)| *range == asked);
        let at = at.ok_or(RemoveMemoryError::NoSlot { asked })?;
        let (_, lease) = leases.swap_remove(at);
        if let Err(ReleaseError { lease, mapped }) = lease.release() {
            leases.push((asked, lease));
            return Err(RemoveMemoryError::Mapped { asked, mapped });
        }
        let in_kernel = self.snapshot().0.iter().filter(|ram| ram.slot.guest != asked).copied().collect();
        self.now.store(Arc::new(Snapshot(in_kernel)));
        Ok(())
    }
}
