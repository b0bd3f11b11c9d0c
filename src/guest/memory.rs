//! A guest's memory, as the VMM has it.

use crate::addr::{GuestAddr, GuestRange, UserAddr, UserRange};
use core::fmt;

/// A stretch of guest RAM and the user memory it is: what KVM calls a memory slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The guest's addresses.
    pub guest: GuestRange,
    /// The user address of the first of them.
    pub user: UserAddr,
}

impl Slot {
    /// The user memory; `None` when it would wrap.
    pub fn user_range(&self) -> Option<UserRange> {
        UserRange::new(self.user, self.guest.len()).ok()
    }

    /// The user address of a guest address in this slot.
    pub(super) fn user(&self, at: GuestAddr) -> UserAddr {
        UserAddr(self.user.0.wrapping_add(at.0.wrapping_sub(self.guest.start().0)))
    }
}

/// There is no guest RAM at an address, or the VMM cannot reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no guest RAM at {at} for {len} bytes")]
pub struct NoMemory {
    /// The guest's address.
    pub at: GuestAddr,
    /// Bytes.
    pub len: usize,
}

/// A guest's memory: where its RAM lies, and its bytes.
///
/// [`super::GuestIommu::add_memory`] reads [`Self::slots`] and registers what is new;
/// [`super::GuestIommu::remove_memory`] is to be called before a slot goes.
pub trait GuestMemory: Send + Sync + fmt::Debug {
    /// All slots there are. None overlap.
    fn slots(&self) -> Vec<Slot>;

    /// Whether `slot`, which was registered, is there still. Asked once for each slot a hypercall maps, so that RAM which went
    /// without [`remove_memory`](super::GuestIommu::remove_memory) takes no new TCE. `true` where the VMM keeps to that.
    fn has(&self, slot: &Slot) -> bool {
        let _ = slot;
        true
    }

    /// Copies bytes out of guest RAM, each once: the guest may be writing them.
    fn read(&self, at: GuestAddr, data: &mut [u8]) -> Result<(), NoMemory>;

    /// Copies bytes into guest RAM.
    fn write(&self, at: GuestAddr, data: &[u8]) -> Result<(), NoMemory>;
}
