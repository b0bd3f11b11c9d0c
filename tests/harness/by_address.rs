//! Memory by its address, for tests: they register parts of memory, overlapping ranges and memory
//! that is gone, which the safe calls do not allow.
#![allow(unsafe_code, reason = "registers by address")]

use spapr_iommu::addr::{IovaRange, UserAddr, UserRange};
use spapr_iommu::guest::{Slot, SlotError, Slots};
use spapr_iommu::host::calls::{self, CallError};
use spapr_iommu::host::{Call, Errno, Fd, Host, Memory};
use spapr_iommu::permission::Permission;
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

/// Reports what KVM mapped, as a test made it.
pub fn observe(space: &AddressSpace, range: IovaRange, found: &[MapRequest]) -> Result<(), MapError> {
    // SAFETY: on models, whose devices reach no memory of this process.
    unsafe { space.sync_from_kvm(range, found) }
}

/// Makes calls as they are, over such memory.
pub trait RunCall {
    fn run_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno>;
}

impl<H: Host + ?Sized> RunCall for H {
    fn run_call(&self, fd: Fd, call: &mut Call) -> Result<i32, Errno> {
        // SAFETY: memory of a host, to which no reference is made.
        unsafe { self.call(fd, call) }
    }
}

pub fn register_memory(host: &dyn Host, container: Fd, range: UserRange) -> Result<(), CallError> {
    // SAFETY: as above.
    unsafe { calls::register_memory(host, container, range) }
}

pub fn map_dma(
    host: &dyn Host,
    container: Fd,
    user: UserAddr,
    iova: IovaRange,
    permission: Permission,
) -> Result<(), CallError> {
    // SAFETY: as above.
    unsafe { calls::map_dma(host, container, user, iova, permission) }
}
