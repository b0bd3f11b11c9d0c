//! A guest's memory, provided by the VMM.

use crate::addr::{GuestAddr, GuestRange, UserAddr, UserRange};
use crate::error::ErrorKind;
use core::any::Any;
use core::fmt;
use std::sync::Arc;

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

/// Why guest RAM was not accessed: there is none at the address, or the VMM cannot reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no guest RAM at {at} for {len} bytes")]
pub struct NoMemory {
    /// Guest address of the access.
    pub at: GuestAddr,
    /// Length of the access in bytes.
    pub len: usize,
}

impl NoMemory {
    /// Returns what the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::NotFound
    }

    /// Returns a stable name of the cause, in kebab case.
    pub fn code(&self) -> &'static str {
        "no-memory"
    }
}

/// Keeps the memory of a slot mapped in the process as long as it is held.
pub type SlotOwner = Arc<dyn Any + Send + Sync>;

/// A guest's memory: the location of its RAM, and access to its bytes.
///
/// [`super::GuestIommu::add_memory`] reads [`Self::slots`] and registers new ones;
/// [`super::GuestIommu::remove_memory`] must be called before a slot is removed.
///
/// # Safety
/// The guest has its devices read and write what [`Self::slots`] names, at any moment. So of the
/// user memory of each slot:
///
/// * it stays mapped in the process as it is, as long as what [`Self::owner`] returned for the slot
///   is held. Where that holds nothing, as by default, it stays until
///   [`remove_memory`](super::GuestIommu::remove_memory) of the slot has succeeded, or for good;
/// * no Rust reference to it is used meanwhile: it is accessed by pointers, volatile or atomic, or
///   by the kernel.
///
/// An address of a variable, or of a `Vec` that is freed one day, is not such memory, and safe code
/// cannot name one:
///
/// ```compile_fail,E0200
/// use spapr_iommu::addr::{GuestAddr, GuestRange, UserAddr};
/// use spapr_iommu::guest::{GuestMemory, NoMemory, Slot};
///
/// #[derive(Debug)]
/// struct Stack;
///
/// impl GuestMemory for Stack {
///     fn slots(&self) -> Vec<Slot> {
///         let variable = [0u8; 0x1_0000];
///         let guest = GuestRange::new(GuestAddr(0), 0x1_0000).unwrap();
///         vec![Slot { guest, user: UserAddr(variable.as_ptr().addr() as u64) }]
///     }
///     fn read(&self, at: GuestAddr, data: &mut [u8]) -> Result<(), NoMemory> { Ok(()) }
///     fn write(&self, at: GuestAddr, data: &[u8]) -> Result<(), NoMemory> { Ok(()) }
/// }
/// ```
#[allow(unsafe_code, reason = "user addresses enter here")]
pub unsafe trait GuestMemory: Send + Sync + fmt::Debug {
    /// Returns all slots. None overlap.
    fn slots(&self) -> Vec<Slot>;

    /// Returns what keeps the memory of `slot` mapped, which is held as long as it is registered;
    /// `None` if the slot is gone. By default that holds nothing.
    fn owner(&self, slot: &Slot) -> Option<SlotOwner> {
        self.has(slot).then(|| Arc::new(()) as SlotOwner)
    }

    /// Returns whether `slot`, which was registered, still exists. Called once for each slot that a
    /// hypercall maps, so that RAM which the VMM took away without
    /// [`remove_memory`](super::GuestIommu::remove_memory) gets no new TCE. The default is for VMMs
    /// that never do that.
    fn has(&self, slot: &Slot) -> bool {
        let _ = slot;
        true
    }

    /// Copies bytes out of guest RAM, each once: the guest may be writing them.
    fn read(&self, at: GuestAddr, data: &mut [u8]) -> Result<(), NoMemory>;

    /// Copies bytes into guest RAM.
    fn write(&self, at: GuestAddr, data: &[u8]) -> Result<(), NoMemory>;
}
