//! Memory by its address: scenarios register parts of what they allocate, and what they have freed.
#![allow(unsafe_code, reason = "registers by address")]

use spapr_iommu::addr::UserRange;
use spapr_iommu::guest::{Slot, SlotError, Slots};
use spapr_iommu::host::{Call, Errno, Fd, Host, Memory, calls};
use spapr_iommu::registry::{Lease, RegisterError, Registry};
use std::sync::Arc;

/// Registers memory that the machine has allocated ([`Memory::allocate`]).
pub(crate) fn register(registry: &Registry, range: UserRange) -> Result<Lease, RegisterError> {
    // SAFETY: a model's memory is not this process's. The running kernel's is a mapping to which no
    // reference is made, and which is unmapped only where a file says so.
    unsafe { registry.register_raw(range) }
}

/// Registers several ranges of such memory, all or none.
pub(crate) fn register_all(registry: &Registry, ranges: &[UserRange]) -> Result<Vec<Lease>, RegisterError> {
    // SAFETY: as above.
    unsafe { registry.register_all_raw(ranges) }
}

/// Adds guest RAM over such memory of `host`.
pub(crate) fn insert(slots: &Slots, slot: Slot, host: Arc<dyn Memory + Send + Sync>) -> Result<(), SlotError> {
    // SAFETY: as above, and it is freed after the guest's IOMMU is gone.
    unsafe { slots.insert_raw(slot, host) }
}

/// Makes a call exactly as a file has it, over memory that the machine has allocated.
pub(crate) fn call(host: &dyn Host, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
    // SAFETY: as above.
    unsafe { calls::raw(host, fd, call) }
}
