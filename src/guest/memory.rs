//! A guest's memory, provided by the VMM.

use crate::addr::{GuestAddr, GuestRange, UserAddr, UserRange};
use core::fmt;

/// A stretch of guest RAM and the user memory that backs it: what KVM calls a memory slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Guest addresses of the slot.
    pub guest: GuestRange,
    /// User address of the first of them.
    pub user: UserAddr,
}

impl Slot {
    /// Returns the user memory; `None` if it would wrap.
    pub fn user_range(&self) -> Option<UserRange> {
        UserRange::new(self.user, self.guest.len()).ok()
    }

    /// Returns the user address of a guest address in this slot.
    pub(super) fn user(&self, at: GuestAddr) -> UserAddr {
        UserAddr(self.user.0.wrapping_add(at.0.wrapping_sub(self.guest.start().0)))
    }
}

/// No guest RAM at an address, or the VMM cannot reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no guest RAM at {at} for {len} bytes")]
pub struct NoMemory {
    /// Guest address of the access.
    pub at: GuestAddr,
    /// Length of the access in bytes.
    pub len: usize,
}

/// A guest's memory: the location of its RAM, and access to its bytes.
///
/// [`super::GuestIommu::add_memory`] reads [`Self::slots`] and registers new ones;
/// [`super::GuestIommu::remove_memory`] must be called before a slot is removed.
pub trait GuestMemory: Send + Sync + fmt::Debug {
    /// Returns all slots. None overlap.
    fn slots(&self) -> Vec<Slot>;

    /// Whether `slot`, which was registered, is there still. Asked once for each slot a hypercall
    /// maps, so that RAM which went without [`remove_memory`](super::GuestIommu::remove_memory)
    /// takes no new TCE. `true` where the VMM keeps to that.
    fn has(&self, slot: &Slot) -> bool {
        let _ = slot;
        true
    }

    /// Copies bytes out of guest RAM, each once: the guest may be writing them.
    fn read(&self, at: GuestAddr, data: &mut [u8]) -> Result<(), NoMemory>;

    /// Copies bytes into guest RAM.
    fn write(&self, at: GuestAddr, data: &[u8]) -> Result<(), NoMemory>;
}
