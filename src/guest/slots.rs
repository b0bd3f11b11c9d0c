//! Guest memory for VMMs without their own: slots over memory of the host.

use super::memory::{GuestMemory, NoMemory, Slot};
use crate::addr::{GuestAddr, UserAddr};
use crate::host::Memory;
use parking_lot::RwLock;
use std::sync::Arc;

/// Slots over memory that a host allocated, used by tests, traces and the example VMM.
pub struct Slots {
    memory: Arc<dyn Memory + Send + Sync>,
    slots: RwLock<Vec<Slot>>,
}

impl core::fmt::Debug for Slots {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:?}", self.slots.read())
    }
}

/// Two slots would overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} overlaps {}: guest RAM is added once", asked.guest, present.guest)]
pub struct SlotsOverlap {
    /// The slot to add.
    pub asked: Slot,
    /// The slot in the way.
    pub present: Slot,
}

impl Slots {
    /// Creates it without RAM, over memory of `host`.
    pub fn new(host: Arc<dyn Memory + Send + Sync>) -> Self {
        Self { memory: host, slots: RwLock::default() }
    }

    /// Adds a slot.
    pub fn insert(&self, slot: Slot) -> Result<(), SlotsOverlap> {
        let mut slots = self.slots.write();
        if let Some(&present) = slots.iter().find(|present| present.guest.intersection(&slot.guest).is_some()) {
            return Err(SlotsOverlap { asked: slot, present });
        }
        slots.push(slot);
        Ok(())
    }

    /// Removes the slot that starts at `start`.
    pub fn remove(&self, start: GuestAddr) -> Option<Slot> {
        let mut slots = self.slots.write();
        let at = slots.iter().position(|slot| slot.guest.start() == start)?;
        Some(slots.remove(at))
    }

    /// Cuts `at..at + len` into its parts in slots, and passes each part's user address, offset and
    /// length.
    fn each(&self, at: GuestAddr, len: usize, mut part: impl FnMut(UserAddr, usize, usize) -> bool) -> Option<()> {
        let slots = self.slots.read();
        let mut done = 0;
        while done < len {
            let here = GuestAddr(at.0.checked_add(done as u64)?);
            let slot = slots.iter().find(|slot| slot.guest.contains(here))?;
            let left = usize::try_from(slot.guest.end().0 - here.0).unwrap_or(usize::MAX);
            let next = left.min(len - done);
            if !part(slot.user(here), done, next) {
                return None;
            }
            done += next;
        }
        Some(())
    }
}

impl GuestMemory for Slots {
    fn slots(&self) -> Vec<Slot> {
        self.slots.read().clone()
    }

    fn has(&self, slot: &Slot) -> bool {
        self.slots.read().contains(slot)
    }

    fn read(&self, at: GuestAddr, data: &mut [u8]) -> Result<(), NoMemory> {
        let len = data.len();
        let copy = |user, from: usize, len: usize| {
            data.get_mut(from..from + len).is_some_and(|part| self.memory.read(user, part).is_ok())
        };
        self.each(at, len, copy).ok_or(NoMemory { at, len })
    }

    fn write(&self, at: GuestAddr, data: &[u8]) -> Result<(), NoMemory> {
        let copy = |user, from: usize, len: usize| {
            data.get(from..from + len).is_some_and(|part| self.memory.write(user, part).is_ok())
        };
        self.each(at, data.len(), copy).ok_or(NoMemory { at, len: data.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::{GuestRange, PageShift};
    use crate::model::Model;

    #[test]
    fn bytes_run_on_from_slot_to_slot_and_stop_at_holes() {
        let model = Arc::new(Model::new("powernv9-64k".parse().unwrap()));
        let user = model.allocate(0x2_0000, PageShift::P64K).unwrap().start();
        let slots = Slots::new(model);
        let slot = |guest, user| Slot { guest: GuestRange::new(GuestAddr(guest), 0x1_0000).unwrap(), user };
        // In the guest they are in the reverse order.
        slots.insert(slot(0, UserAddr(user.0 + 0x1_0000))).unwrap();
        slots.insert(slot(0x1_0000, user)).unwrap();
        assert!(slots.insert(slot(0xf000, user)).is_err());
        slots.write(GuestAddr(0xfffe), &[1, 2, 3, 4]).unwrap();
        let mut data = [0; 4];
        slots.read(GuestAddr(0xfffe), &mut data).unwrap();
        assert_eq!(data, [1, 2, 3, 4]);
        assert_eq!(slots.read(GuestAddr(0x1_fffe), &mut data), Err(NoMemory { at: GuestAddr(0x1_fffe), len: 4 }));
        assert!(slots.read(GuestAddr(u64::MAX), &mut data).is_err());
        slots.remove(GuestAddr(0)).unwrap();
        assert!(slots.read(GuestAddr(0xfffe), &mut data).is_err());
    }
}
