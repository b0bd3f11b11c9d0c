//! Adapters to rust-vmm's `vm-memory`: its guest memory for this crate, and this crate's
//! translation as its IOMMU.

use super::memory::{GuestMemory, NoMemory, Slot};
use super::phb::Phb;
use crate::addr::{GuestAddr, GuestRange, Iova, UserAddr};
use crate::permission::Permission;
use core::fmt;
use std::sync::Arc;
use vm_memory::iommu::{Error, Iommu, Iotlb, IotlbIterator, IovaRange};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress, Permissions,
};

/// Guest memory of `vm-memory`, from any source: for example an `Arc<GuestMemoryMmap>`, or a
/// `GuestMemoryAtomic` if memory is plugged.
pub struct VmMemory<S>(pub S);

impl<S> fmt::Debug for VmMemory<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VmMemory")
    }
}

impl<S> GuestMemory for VmMemory<S>
where
    S: GuestAddressSpace + Send + Sync,
    S::M: GuestMemoryBackend,
{
    /// Returns the regions that the process has mapped; others cannot be registered.
    fn slots(&self) -> Vec<Slot> {
        let memory = self.0.memory();
        let slot = |region: &<S::M as GuestMemoryBackend>::R| {
            let user = region.get_host_address(MemoryRegionAddress(0)).ok()?;
            let guest = GuestRange::new(GuestAddr(region.start_addr().0), region.len()).ok()?;
            Some(Slot { guest, user: UserAddr(user.addr() as u64) })
        };
        memory.iter().filter_map(slot).collect()
    }

    fn read(&self, at: GuestAddr, data: &mut [u8]) -> Result<(), NoMemory> {
        let len = data.len();
        self.0.memory().read_slice(data, GuestAddress(at.0)).map_err(|_| NoMemory { at, len })
    }

    fn write(&self, at: GuestAddr, data: &[u8]) -> Result<(), NoMemory> {
        let len = data.len();
        self.0.memory().write_slice(data, GuestAddress(at.0)).map_err(|_| NoMemory { at, len })
    }
}

/// The view of devices on a PHB, for virtio back ends: `IommuMemory::new(memory,
/// PhbIommu::new(phb), …)`.
///
/// It caches nothing between accesses, so nothing has to be invalidated: each access reads the
/// guest's tables, lock-free.
#[derive(Clone, Debug)]
pub struct PhbIommu(Arc<Phb>);

impl PhbIommu {
    /// Creates the IOMMU of a PHB.
    pub fn new(phb: Arc<Phb>) -> Self {
        Self(phb)
    }
}

fn rights(permission: Permission) -> Permissions {
    match permission {
        Permission::Read => Permissions::Read,
        Permission::Write => Permissions::Write,
        Permission::ReadWrite => Permissions::ReadWrite,
    }
}

impl Iommu for PhbIommu {
    type IotlbGuard<'a> = Box<Iotlb>;

    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: Permissions,
    ) -> Result<IotlbIterator<Box<Iotlb>>, Error> {
        let asked = || IovaRange { base: iova, length };
        let fails = |reason: String| Error::CannotResolve { iova_range: asked(), reason };
        let end = iova.0.checked_add(length as u64).filter(|_| length != 0);
        let end = end.ok_or_else(|| fails("it is empty or wraps".into()))?;
        let mut pages = Box::new(Iotlb::new());
        let mut at = iova.0;
        while at < end {
            let there = self.0.translate(Iova(at)).filter(|there| rights(there.permission).allow(access));
            let there = there.ok_or_else(|| fails(format!("the guest gave no such right at {at:#x}")))?;
            let len = (there.page.bytes() - (at & there.mask())).min(end - at);
            pages.set_mapping(GuestAddress(at), GuestAddress(there.guest.0), len as usize, rights(there.permission))?;
            at += len;
        }
        Iotlb::lookup(pages, iova, length, access).map_err(|_| fails("it is not mapped throughout".into()))
    }
}
