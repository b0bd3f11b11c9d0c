//! Registered guest RAM: the memory to which a guest's TCEs may lead.

use super::error::HcallError;
use super::memory::{GuestMemory, Slot};
use super::read_mostly::ReadMostly;
use crate::addr::{GuestAddr, GuestRange, IovaRange, PageShift};
use crate::registry::{Lease, RegisterError, Registry, ReleaseError};
use crate::space::MapError;
use core::fmt;
use parking_lot::Mutex;
use std::sync::Arc;

/// Why guest RAM was not added. Nothing has changed, except after [`AddMemoryError::Pin`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum AddMemoryError {
    /// Slots overlap, or the user memory of one wraps.
    #[error("{} overlaps other guest RAM or wraps in user memory: give each slot memory of its own", slot.guest)]
    Slot { slot: Slot },
    /// RAM that was added before is no longer a slot.
    #[error("{} is no longer in the guest's memory: call remove_memory before a slot is removed", slot.guest)]
    Vanished { slot: Slot },
    /// Devices could not reach it: the host's window has larger pages than the RAM can serve.
    #[error(
        "new RAM can serve pages of {max_iommu_page}, but devices reach RAM through the window {window} with pages of \
         {page}: back the RAM with such pages, or have the guest remove the window"
    )]
    Page { max_iommu_page: PageShift, window: IovaRange, page: PageShift },
    /// It cannot be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// It is registered, but could not be pinned for KVM.
    #[error(transparent)]
    Pin(#[from] MapError),
}

crate::error::classify!(AddMemoryError {
    Argument: Slot, Page;
    NotFound: Vanished;
    inner: Register.0, Pin.0;
});

/// Why guest RAM was not removed. It stays, but takes no new TCE until it is removed or kept.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum RemoveMemoryError {
    /// The range is not a slot.
    #[error("{slot} is not a slot of guest RAM: remove whole slots")]
    NoSlot { slot: GuestRange },
    /// TCEs lead into it.
    #[error(
        "the guest maps {slot} at {}: have the guest unmap it and call remove_memory again, or call keep_memory",
        FirstOf(mapped)
    )]
    Mapped {
        slot: GuestRange,
        /// Bus addresses of the guest's tables that lead there.
        mapped: Vec<IovaRange>,
    },
    /// What the kernel mapped by itself could not be read back.
    #[error(
        "what the kernel mapped of {slot} cannot be read back: {why}; stop the guest's vCPUs and call remove_memory \
         again, or call keep_memory"
    )]
    Kernel {
        slot: GuestRange,
        /// Why; part of the message, so no source.
        why: Box<HcallError>,
    },
}

crate::error::classify!(RemoveMemoryError {
    NotFound: NoSlot;
    Busy: Mapped;
    inner: Kernel.why;
});

struct FirstOf<'a>(&'a [IovaRange]);

impl fmt::Display for FirstOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
    unplugging: bool,
}

/// One snapshot of the slots, in order of guest address.
#[derive(Debug, Default)]
pub(super) struct Snapshot(Vec<Ram>);

impl Snapshot {
    /// Returns the bytes of all slots.
    pub(super) fn bytes(&self) -> u64 {
        self.slots().fold(0, |bytes, slot| bytes.saturating_add(slot.guest.len()))
    }

    /// Returns the slot that holds `at`.
    pub(super) fn find(&self, at: GuestAddr) -> SlotLookup {
        match self.ram(at) {
            Some(ram) if ram.unplugging => SlotLookup::Unplugging(ram.slot),
            Some(ram) => SlotLookup::Slot(ram.slot),
            None => SlotLookup::Nowhere,
        }
    }

    /// Returns the slot that holds `len` bytes at `at`, unless it is being removed.
    #[inline]
    pub(super) fn slot(&self, at: GuestAddr, len: u64) -> Option<&Slot> {
        let ram = self.ram(at).filter(|ram| !ram.unplugging && len <= ram.slot.guest.end().0 - at.0)?;
        Some(&ram.slot)
    }

    #[inline]
    fn ram(&self, at: GuestAddr) -> Option<&Ram> {
        let ram = match self.0.as_slice() {
            // Most guests have one; no search.
            [ram] => ram,
            all => all.get(all.partition_point(|ram| ram.slot.guest.start() <= at).checked_sub(1)?)?,
        };
        Some(ram).filter(|ram| ram.slot.guest.contains(at))
    }

    /// Returns the slots, each with whether it is being removed.
    #[cfg(feature = "inspect")]
    pub(super) fn slots_and_marks(&self) -> impl Iterator<Item = (Slot, bool)> + '_ {
        self.0.iter().map(|ram| (ram.slot, ram.unplugging))
    }

    fn slots(&self) -> impl Iterator<Item = Slot> + '_ {
        self.0.iter().map(|ram| ram.slot)
    }
}

/// A guest's RAM, registered in few regions: slots that are added together and continue each other
/// in user memory are one region to the kernel.
pub struct GuestRam {
    registry: Registry,
    memory: Arc<dyn GuestMemory>,
    /// Read lock-free by hypercalls.
    pub(super) now: Arc<ReadMostly<Snapshot>>,
    leases: Mutex<Vec<(GuestRange, Lease)>>,
}

impl GuestRam {
    /// Creates it without registering any of `memory` yet.
    pub(super) fn new(registry: &Registry, memory: Arc<dyn GuestMemory>) -> Self {
        Self { registry: registry.clone(), memory, now: Arc::default(), leases: Mutex::default() }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Returns access to the guest's bytes, as [`RtasBlock`](super::RtasBlock) needs it.
    pub fn memory(&self) -> &dyn GuestMemory {
        self.memory.as_ref()
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.now.load()
    }

    /// Calls `act` with the latest snapshot. Lock-free.
    #[inline]
    pub(super) fn read<R>(&self, act: impl FnOnce(&Snapshot) -> R) -> R {
        self.now.read(act)
    }

    /// Returns the slots of RAM.
    pub fn slots(&self) -> Vec<Slot> {
        self.snapshot().slots().collect()
    }

    /// Returns the largest IOMMU page that all of it can serve; `None` without RAM.
    pub fn max_iommu_page(&self) -> Option<PageShift> {
        self.slots().iter().map(|slot| self.registry.max_iommu_page(slot.user_range()?)).min().flatten()
    }

    /// Returns the largest page to which all slots are aligned in the guest; `None` without RAM and
    /// below 4 KiB. User memory may be aligned to less: one page of the guest is then several of
    /// the host's.
    pub(super) fn alignment(&self) -> Option<PageShift> {
        let bits = self.slots().iter().fold(0, |bits, slot| bits | slot.guest.start().0 | slot.guest.len());
        (12..=34.min(bits.trailing_zeros())).filter_map(PageShift::new).next_back().filter(|_| bits != 0)
    }

    /// Registers new slots, unless `check` rejects the resulting page size.
    pub(super) fn add(&self, check: impl Fn(PageShift) -> Result<(), AddMemoryError>) -> Result<(), AddMemoryError> {
        let mut leases = self.leases.lock();
        let mut all = self.memory.slots();
        let now = self.snapshot();
        if let Some(slot) = now.slots().find(|slot| !all.contains(slot)) {
            return Err(AddMemoryError::Vanished { slot });
        }
        all.sort_unstable_by_key(|slot| slot.guest.start());
        if let Some(pair) = all.windows(2).find(|pair| pair[0].guest.end() > pair[1].guest.start()) {
            return Err(AddMemoryError::Slot { slot: pair[1] });
        }
        let added: Vec<Slot> = all.iter().filter(|slot| !now.slots().any(|old| old == **slot)).copied().collect();
        let ranges = added.iter().map(|slot| slot.user_range().ok_or(AddMemoryError::Slot { slot: *slot }));
        let ranges = ranges.collect::<Result<Vec<_>, _>>()?;
        let owner = |slot: &Slot| self.memory.owner(slot).ok_or(AddMemoryError::Vanished { slot: *slot });
        let owners = added.iter().map(owner).collect::<Result<Vec<_>, _>>()?;
        let new = self.registry.register_owned(&ranges, owners.into_iter())?;
        // An early return drops the leases, which releases the memory.
        // Each is registered now, and so has a page; the smallest would at worst be refused.
        let pages = ranges.iter().map(|range| self.registry.max_iommu_page(*range).unwrap_or(PageShift::P4K));
        pages.min().map_or(Ok(()), check)?;
        leases.extend(added.iter().map(|slot| slot.guest).zip(new));
        let unplugging = |slot: &Slot| now.0.iter().any(|ram| ram.slot == *slot && ram.unplugging);
        let all = all.iter().map(|slot| Ram { slot: *slot, unplugging: unplugging(slot) }).collect();
        self.replace(all);
        Ok(())
    }

    /// Replaces the slots. The caller has locked `leases`.
    fn replace(&self, slots: Vec<Ram>) {
        self.now.update(|_| (Snapshot(slots), ()));
    }

    /// Marks a slot as unplugging, so that no new TCE may lead into it, or removes the mark.
    pub(super) fn mark(&self, slot: GuestRange, unplugging: bool) -> Result<(), RemoveMemoryError> {
        let _leases = self.leases.lock();
        let mut rams = self.snapshot().0.clone();
        let ram = rams.iter_mut().find(|ram| ram.slot.guest == slot);
        ram.ok_or(RemoveMemoryError::NoSlot { slot })?.unplugging = unplugging;
        self.replace(rams);
        Ok(())
    }

    /// Releases a slot into which no TCE leads.
    pub(super) fn remove(&self, slot: GuestRange) -> Result<(), RemoveMemoryError> {
        let mut leases = self.leases.lock();
        let at = leases.iter().position(|(range, _)| *range == slot);
        let at = at.ok_or(RemoveMemoryError::NoSlot { slot })?;
        let (_, lease) = leases.swap_remove(at);
        if let Err(ReleaseError { lease, mapped }) = lease.release() {
            leases.push((slot, lease));
            return Err(RemoveMemoryError::Mapped { slot, mapped });
        }
        let remaining = self.snapshot().0.iter().filter(|ram| ram.slot.guest != slot).copied().collect();
        self.replace(remaining);
        Ok(())
    }
}

impl fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ram = self.snapshot();
        write!(f, "GuestRam({:#x} bytes in {} slots)", ram.bytes(), self.slots().len())
    }
}
