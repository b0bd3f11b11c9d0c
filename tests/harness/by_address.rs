//! Memory by its address, for tests: they register parts of memory, overlapping ones, and memory
//! that is gone, as the safe calls do not.
#![allow(unsafe_code, reason = "registers by address")]

use spapr_iommu::addr::{IovaRange, UserRange};
use spapr_iommu::guest::{Slot, SlotError, Slots};
use spapr_iommu::host::Memory;
use spapr_iommu::registry::{Lease, RegisterError, Registry};
use spapr_iommu::space::{AddressSpace, MapError, MapRequest};
use std::sync::Arc;

/// Registers memory that a host has allocated ([`Memory::allocate`]): a model's is none of this
/// process, and the running kernel's is reached by copies that the kernel makes.
pub trait ByAddress {
    fn lease(&self, range: UserRange) -> Result<Lease, RegisterError>;
    fn lease_all(&self, ranges: &[UserRange]) -> Result<Vec<Lease>, RegisterError>;
}

impl ByAddress for Registry {
    fn lease(&self, range: UserRange) -> Result<Lease, RegisterError> {
        // SAFETY: memory of a host, to which no reference is made. Tests on the running kernel free
        // it after its lease.
        unsafe { self.register_raw(range) }
    }

    fn lease_all(&self, ranges: &[UserRange]) -> Result<Vec<Lease>, RegisterError> {
        // SAFETY: as above.
        unsafe { self.register_all_raw(ranges) }
    }
}

/// Guest RAM of such memory.
pub trait PlugByAddress {
    fn plug(&self, slot: Slot, host: Arc<dyn Memory + Send + Sync>) -> Result<(), SlotError>;
}

impl PlugByAddress for Slots {
    fn plug(&self, slot: Slot, host: Arc<dyn Memory + Send + Sync>) -> Result<(), SlotError> {
        // SAFETY: as above, and the host is held by the slot.
        unsafe { self.insert_raw(slot, host) }
    }
}

/// Says what KVM mapped, as a test made it.
pub fn observe(space: &AddressSpace, range: IovaRange, found: &[MapRequest]) -> Result<(), MapError> {
    // SAFETY: on models, whose devices reach no memory of this process.
    unsafe { space.sync_from_kvm(range, found) }
}
