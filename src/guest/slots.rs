//! Guest memory for VMMs without their own: slots over memory of the process.

use super::memory::{GuestMemory, NoMemory, Slot, SlotOwner};
use crate::addr::{GuestAddr, GuestRange, UserRange};
use crate::host::{Memory, Shared};
use parking_lot::RwLock;
use std::sync::Arc;

/// Guest RAM in slots: of [`Shared`] memory, or of memory that a host allocated.
#[derive(Default)]
pub struct Slots(RwLock<Vec<Entry>>);

#[derive(Clone)]
struct Entry {
    slot: Slot,
    access: Access,
}

#[derive(Clone)]
enum Access {
    Shared(Shared),
    Host(Arc<dyn Memory + Send + Sync>),
}

impl core::fmt::Debug for Slots {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.0.read().iter().map(|entry| entry.slot)).finish()
    }
}

/// Why a slot was not added. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum SlotError {
    /// Two slots would overlap.
    #[error("{} overlaps {}: remove that first, or give the new slot other addresses", slot.guest, present.guest)]
    Overlaps { slot: Slot, present: Slot },
    /// The slot would wrap.
    #[error("{memory} at {at} runs past the end of the guest's addresses: give it a lower start")]
    Wraps { at: GuestAddr, memory: UserRange },
    /// A slice that is lent to devices for a while.
    #[error("{memory} is lent for one call only, but guest RAM must stay: use memory of `Host::share`")]
    Lent { memory: UserRange },
}

crate::error::classify!(SlotError {
    Argument: Wraps, Lent;
    Busy: Overlaps;
});

impl Slots {
    /// Creates it without RAM.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a slot that begins at `start` in the guest and is backed by `memory`, which stays as
    /// long as it is a slot or is registered.
    ///
    /// ```compile_fail,E0308
    /// # fn add(slots: &spapr_iommu::guest::Slots) {
    /// use spapr_iommu::{UserAddr, addr::GuestAddr};
    ///
    /// let variable = [0u8; 0x1_0000];
    /// slots.insert(GuestAddr(0), UserAddr(variable.as_ptr().addr() as u64));
    /// # }
    /// ```
    pub fn insert(&self, start: GuestAddr, memory: &Shared) -> Result<(), SlotError> {
        let range = memory.range();
        if memory.is_lent() {
            return Err(SlotError::Lent { memory: range });
        }
        let guest = GuestRange::new(start, range.len()).map_err(|_| SlotError::Wraps { at: start, memory: range })?;
        self.add(Entry { slot: Slot { guest, user: range.start() }, access: Access::Shared(memory.clone()) })
    }

    /// Adds a slot over memory that `host` reads and writes.
    ///
    /// # Safety
    /// The user memory of the slot is as [`GuestMemory`] demands of a slot whose owner holds
    /// nothing.
    ///
    /// ```compile_fail,E0133
    /// # use spapr_iommu::{UserAddr, addr::{GuestAddr, GuestRange}, guest::{Slot, Slots}, host::Memory};
    /// # fn add(slots: &Slots, host: std::sync::Arc<dyn Memory + Send + Sync>) {
    /// let bytes = vec![0u8; 0x1_0000];
    /// let guest = GuestRange::new(GuestAddr(0), 0x1_0000).unwrap();
    /// slots.insert_raw(Slot { guest, user: UserAddr(bytes.as_ptr().addr() as u64) }, host);
    /// # }
    /// ```
    #[allow(unsafe_code, reason = "user addresses enter here")]
    pub unsafe fn insert_raw(&self, slot: Slot, host: Arc<dyn Memory + Send + Sync>) -> Result<(), SlotError> {
        self.add(Entry { slot, access: Access::Host(host) })
    }

    fn add(&self, entry: Entry) -> Result<(), SlotError> {
        let mut entries = self.0.write();
        let slot = entry.slot;
        let mut slots = entries.iter().map(|present| present.slot);
        if let Some(present) = slots.find(|present| present.guest.intersection(&slot.guest).is_some()) {
            return Err(SlotError::Overlaps { slot, present });
        }
        entries.push(entry);
        Ok(())
    }

    /// Removes the slot that starts at `start`. Its memory goes when it is no longer registered
    /// either.
    pub fn remove(&self, start: GuestAddr) -> Option<Slot> {
        let mut entries = self.0.write();
        let at = entries.iter().position(|entry| entry.slot.guest.start() == start)?;
        Some(entries.remove(at).slot)
    }

    /// Cuts `at..at + len` into its parts in slots, and passes each part's slot, its guest address,
    /// and its offset and length in the access.
    fn each(
        &self,
        at: GuestAddr,
        len: usize,
        mut part: impl FnMut(&Entry, GuestAddr, usize, usize) -> bool,
    ) -> Option<()> {
        let entries = self.0.read();
        let mut done = 0;
        while done < len {
            let here = GuestAddr(at.0.checked_add(done as u64)?);
            let entry = entries.iter().find(|entry| entry.slot.guest.contains(here))?;
            let left = usize::try_from(entry.slot.guest.end().0 - here.0).unwrap_or(usize::MAX);
            let next = left.min(len - done);
            if !part(entry, here, done, next) {
                return None;
            }
            done += next;
        }
        Some(())
    }
}

impl Entry {
    fn read(&self, at: GuestAddr, data: &mut [u8]) -> bool {
        match &self.access {
            Access::Shared(memory) => memory.read(at.0 - self.slot.guest.start().0, data).is_ok(),
            Access::Host(host) => host.read(self.slot.user(at), data).is_ok(),
        }
    }

    fn write(&self, at: GuestAddr, data: &[u8]) -> bool {
        match &self.access {
            Access::Shared(memory) => memory.write(at.0 - self.slot.guest.start().0, data).is_ok(),
            Access::Host(host) => host.write(self.slot.user(at), data).is_ok(),
        }
    }
}

// SAFETY: shared memory stays mapped as long as a clone of it, which is the owner, and is reached
// by copies only. For other memory the caller of `insert_raw` has promised it.
#[allow(unsafe_code, reason = "user addresses enter here")]
unsafe impl GuestMemory for Slots {
    fn slots(&self) -> Vec<Slot> {
        self.0.read().iter().map(|entry| entry.slot).collect()
    }

    fn owner(&self, slot: &Slot) -> Option<SlotOwner> {
        let entries = self.0.read();
        let entry = entries.iter().find(|entry| entry.slot == *slot)?;
        Some(match &entry.access {
            Access::Shared(memory) => memory.owner(),
            Access::Host(host) => Arc::new(Arc::clone(host)),
        })
    }

    fn has(&self, slot: &Slot) -> bool {
        self.0.read().iter().any(|entry| entry.slot == *slot)
    }

    fn read(&self, at: GuestAddr, data: &mut [u8]) -> Result<(), NoMemory> {
        let len = data.len();
        let copy = |entry: &Entry, at, from: usize, len: usize| {
            data.get_mut(from..from + len).is_some_and(|part| entry.read(at, part))
        };
        self.each(at, len, copy).ok_or(NoMemory { at, len })
    }

    fn write(&self, at: GuestAddr, data: &[u8]) -> Result<(), NoMemory> {
        let copy = |entry: &Entry, at, from: usize, len: usize| {
            data.get(from..from + len).is_some_and(|part| entry.write(at, part))
        };
        self.each(at, data.len(), copy).ok_or(NoMemory { at, len: data.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PageShift;
    use crate::host::Host;
    use crate::model::Model;

    #[test]
    #[allow(unsafe_code, reason = "a slot of memory that is the model's")]
    fn bytes_run_on_from_slot_to_slot_and_stop_at_holes() {
        let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
        let user = model.allocate(0x1_0000, PageShift::P64K).unwrap().start();
        let shared = model.share(0x1_0000, PageShift::P64K).unwrap();
        let slots = Slots::new();
        // In the guest they lie side by side.
        slots.insert(GuestAddr(0), &shared).unwrap();
        let slot = |guest| Slot { guest: GuestRange::new(GuestAddr(guest), 0x1_0000).unwrap(), user };
        // SAFETY: memory of the model, which is none of this process.
        unsafe {
            slots.insert_raw(slot(0x1_0000), model.clone()).unwrap();
            let overlaps = slots.insert_raw(slot(0xf000), model.clone());
            assert!(matches!(overlaps, Err(SlotError::Overlaps { .. })), "{overlaps:?}");
        }
        let wraps = slots.insert(GuestAddr(u64::MAX), &shared);
        assert!(matches!(wraps, Err(SlotError::Wraps { .. })), "{wraps:?}");
        slots.write(GuestAddr(0xfffe), &[1, 2, 3, 4]).unwrap();
        let mut data = [0; 4];
        slots.read(GuestAddr(0xfffe), &mut data).unwrap();
        assert_eq!(data, [1, 2, 3, 4]);
        assert_eq!(slots.read(GuestAddr(0x1_fffe), &mut data), Err(NoMemory { at: GuestAddr(0x1_fffe), len: 4 }));
        assert!(slots.read(GuestAddr(u64::MAX), &mut data).is_err());
        slots.remove(GuestAddr(0)).unwrap();
        assert!(slots.read(GuestAddr(0xfffe), &mut data).is_err());
    }

    #[test]
    fn memory_that_is_lent_is_no_guest_ram() {
        let mut words = [0u64; 4];
        let slice = zerocopy::IntoBytes::as_mut_bytes(&mut words);
        let refused = Shared::with_slice(slice, |lent| Slots::new().insert(GuestAddr(0), lent)).unwrap();
        assert!(matches!(refused, Err(SlotError::Lent { .. })), "{refused:?}");
    }
}
