//! The registry of the process, and leases on its memory.
#![allow(unsafe_code, reason = "exports functions")]

use crate::host::Host;
use crate::memory::{Kept, Memory};
use crate::pointer::{fill, space};
use crate::status::{Failure, Status, call, free, required};
use core::mem::MaybeUninit;
use std::sync::Arc;

/// The memory registry of a process. Create one and share it: two would compete for the kernel's
/// regions.
pub struct Registry(pub(crate) spapr_iommu::Registry);

/// Keeps memory registered.
pub struct Lease {
    /// Gone before the memory.
    lease: Option<spapr_iommu::Lease>,
    _kept: Arc<Kept>,
}

/// A region that the kernel has registered.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Region {
    /// First user address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
    /// Bytes of bus addresses that point into it.
    pub mapped: u64,
    /// Largest IOMMU page it can serve, as a power of two.
    pub max_page_shift: u32,
    /// Largest number of leases on any part of it.
    pub leases: u32,
    /// Number of containers it is registered in.
    pub containers: u32,
    /// 0.
    pub reserved: [u32; 5],
}

/// Creates the registry of this process on a host.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_registry_new(
    host: Option<&Host>,
    registry: Option<&mut MaybeUninit<Option<Box<Registry>>>>,
) -> Status {
    call(|| {
        let place = required(registry, "registry")?.write(None);
        let host = required(host, "host")?;
        *place = Some(Box::new(Registry(spapr_iommu::Registry::new(host.get()))));
        Ok(())
    })
}

/// Frees the handle. Spaces, leases and guests keep the registry.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_registry_free(registry: Option<Box<Registry>>) {
    free(registry);
}

/// Registers memory. Address spaces of the registry may map it as long as it has a lease.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_register(
    registry: Option<&Registry>,
    memory: Option<&Memory>,
    lease: Option<&mut MaybeUninit<Option<Box<Lease>>>>,
) -> Status {
    call(|| {
        let place = required(lease, "lease")?.write(None);
        let (registry, memory) = (required(registry, "registry")?, required(memory, "memory")?);
        let lease = memory.0.register(&registry.0)?;
        *place = Some(Box::new(Lease { lease: Some(lease), _kept: Arc::clone(&memory.0) }));
        Ok(())
    })
}

/// Releases the memory and frees the lease. Refused (SPAPR_IOMMU_BUSY, "still-mapped") while a
/// device can reach a byte of it that no other lease covers: then the lease stays as it was, and
/// the message names the bus addresses.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_lease_release(lease: Option<Box<Lease>>) -> Status {
    call(|| {
        let mut handle = required(lease, "lease")?;
        let Some(lease) = handle.lease.take() else { return Ok(()) };
        let Err(refused) = lease.release() else { return Ok(()) };
        let failure = Failure::new(refused.kind(), refused.code(), &refused);
        handle.lease = Some(refused.lease);
        // The caller still has it.
        Box::leak(handle);
        Err(failure)
    })
}

/// Gives the lease up without asking whether devices still reach the memory: it stays registered
/// until its last mapping is gone, but takes no new one. Memory of spapr_iommu_memory_borrow must
/// stay until then; memory of spapr_iommu_memory_allocate that devices of a model still reach is
/// never freed.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_lease_free(lease: Option<Box<Lease>>) {
    free(lease);
}

/// Lists the kernel's regions, by address: up to `capacity` go to `regions`, and `count` gets the
/// number there are. With `capacity` 0, `regions` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_registry_regions(
    registry: Option<&Registry>,
    regions: *mut Region,
    capacity: usize,
    count: Option<&mut MaybeUninit<usize>>,
) -> Status {
    call(|| {
        let registry = required(registry, "registry")?;
        // SAFETY: an array of that capacity, as the header requires.
        let regions = unsafe { space(regions, capacity, "regions") }?;
        let all = registry.0.regions().into_iter().map(|region| Region {
            address: region.range.start().0,
            size: region.range.len(),
            mapped: region.mapped,
            max_page_shift: region.max_iommu_page.get(),
            leases: region.leases,
            containers: region.containers.try_into().unwrap_or(u32::MAX),
            reserved: [0; 5],
        });
        fill(regions, count, all)
    })
}
