//! Adapters to rust-vmm's `vm-memory`: its guest memory for this crate, and this crate's
//! translation as its IOMMU.

use super::memory::{GuestMemory, NoMemory, Slot, SlotOwner};
use super::phb::Phb;
use crate::addr::{GuestAddr, GuestRange, Iova, UserAddr};
use crate::host::{Errno, LentMemory, Memory};
use crate::permission::Permission;
use core::fmt;
use std::sync::Arc;
use vm_memory::bitmap::Bitmap;
use vm_memory::iommu::{Error, Iommu, Iotlb, IotlbIterator, IovaRange};
use vm_memory::{
    Bytes, GuestAddress, GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion,
    MemoryRegionAddress, Permissions,
};

/// Guest memory of `vm-memory`: an `Arc<GuestMemoryMmap>`, a `GuestMemoryAtomic` if memory is
/// plugged, or a back end of the VMM's.
pub struct VmMemory<S: GuestAddressSpace> {
    memory: S,
    /// Keeps the region that is a slot.
    owner: fn(&S::M, &Slot) -> Option<SlotOwner>,
}

impl<S, B> VmMemory<S>
where
    S: GuestAddressSpace<M = GuestMemoryMmap<B>>,
    B: Bitmap + Send + Sync + 'static,
{
    /// Takes memory whose regions are mappings of their own.
    ///
    /// Such a region unmaps its memory when it is dropped, not before; the IOMMU holds it while it
    /// is registered, whether or not it was taken out of `memory` meanwhile. `vm-memory` reaches
    /// its bytes by volatile accesses, as devices may change them at any moment.
    pub fn new(memory: S) -> Self {
        Self { memory, owner: mapping }
    }
}

/// The region that is a slot, which can be had by taking it out of a copy of the collection.
fn mapping<B: Bitmap + Send + Sync + 'static>(memory: &GuestMemoryMmap<B>, slot: &Slot) -> Option<SlotOwner> {
    let (_, region) = memory.remove_region(GuestAddress(slot.guest.start().0), slot.guest.len()).ok()?;
    (slot_of(&*region) == Some(*slot)).then_some(region as SlotOwner)
}

impl<S> VmMemory<S>
where
    S: GuestAddressSpace,
    S::M: GuestMemoryBackend,
{
    /// Takes memory of any back end.
    ///
    /// # Safety
    /// The regions that the process has mapped (`get_host_address`) are as [`GuestMemory`] demands
    /// of slots whose owner holds nothing: each stays until
    /// [`remove_memory`](super::GuestIommu::remove_memory) of it has succeeded.
    #[allow(unsafe_code, reason = "user addresses enter here")]
    pub unsafe fn of_backend(memory: S) -> Self {
        Self { memory, owner: |_, _| Some(Arc::new(())) }
    }
}

impl<S> VmMemory<S>
where
    S: GuestAddressSpace + Clone + Send + Sync + 'static,
    S::M: GuestMemoryBackend,
{
    /// Lends all regions to a model, which sees nothing of this process otherwise: call it before
    /// [`add_memory`], and again after memory is plugged. The model's devices then read and write
    /// these regions. EINVAL where a region is not whole pages of the model's kernel. On the
    /// running kernel it does nothing.
    ///
    /// [`add_memory`]: super::GuestIommu::add_memory
    pub fn lend_to(&self, host: &dyn Memory) -> Result<(), Errno> {
        let ranges: Vec<_> = self.slots().iter().filter_map(Slot::user_range).collect();
        ranges
            .into_iter()
            .try_for_each(|range| host.lend(range, Arc::new(Self { memory: self.memory.clone(), owner: self.owner })))
    }
}

impl<S> LentMemory for VmMemory<S>
where
    S: GuestAddressSpace + Send + Sync,
    S::M: GuestMemoryBackend,
{
    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno> {
        let guest = self.guest_of(at).ok_or(Errno::EFAULT)?;
        GuestMemory::read(self, guest, data).map_err(|_| Errno::EFAULT)
    }

    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno> {
        let guest = self.guest_of(at).ok_or(Errno::EFAULT)?;
        GuestMemory::write(self, guest, data).map_err(|_| Errno::EFAULT)
    }
}

impl<S> VmMemory<S>
where
    S: GuestAddressSpace + Send + Sync,
    S::M: GuestMemoryBackend,
{
    /// Returns the guest address of memory of this process.
    fn guest_of(&self, at: UserAddr) -> Option<GuestAddr> {
        let memory = self.memory.memory();
        let found =
            memory.iter().filter_map(slot_of).find(|slot| slot.user_range().is_some_and(|user| user.contains(at)))?;
        Some(GuestAddr(found.guest.start().0 + (at.0 - found.user.0)))
    }
}

impl<S: GuestAddressSpace> fmt::Debug for VmMemory<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VmMemory")
    }
}

/// A region as a slot; `None` where the process has not mapped it.
fn slot_of(region: &impl GuestMemoryRegion) -> Option<Slot> {
    let user = region.get_host_address(MemoryRegionAddress(0)).ok()?;
    let guest = GuestRange::new(GuestAddr(region.start_addr().0), region.len()).ok()?;
    Some(Slot { guest, user: UserAddr(user.addr() as u64) })
}

// SAFETY: the regions of `VmMemory::new` are mappings that stay as long as their owner, and are
// reached by volatile accesses. For others the caller of `VmMemory::of_backend` has promised it.
#[allow(unsafe_code, reason = "user addresses enter here")]
unsafe impl<S> GuestMemory for VmMemory<S>
where
    S: GuestAddressSpace + Send + Sync,
    S::M: GuestMemoryBackend,
{
    /// Returns the regions that the process has mapped; others cannot be registered.
    fn slots(&self) -> Vec<Slot> {
        self.memory.memory().iter().filter_map(slot_of).collect()
    }

    fn owner(&self, slot: &Slot) -> Option<SlotOwner> {
        if self.has(slot) { (self.owner)(&self.memory.memory(), slot) } else { None }
    }

    fn has(&self, slot: &Slot) -> bool {
        let memory = self.memory.memory();
        memory.find_region(GuestAddress(slot.guest.start().0)).and_then(slot_of) == Some(*slot)
    }

    fn read(&self, at: GuestAddr, data: &mut [u8]) -> Result<(), NoMemory> {
        let len = data.len();
        self.memory.memory().read_slice(data, GuestAddress(at.0)).map_err(|_| NoMemory { at, len })
    }

    fn write(&self, at: GuestAddr, data: &[u8]) -> Result<(), NoMemory> {
        let len = data.len();
        self.memory.memory().write_slice(data, GuestAddress(at.0)).map_err(|_| NoMemory { at, len })
    }
}

/// The view of devices on a PHB, for virtio back ends: `IommuMemory::new(memory,
/// PhbIommu::new(phb), …)`.
///
/// Nothing is cached, so nothing has to be invalidated: each access reads the guest's tables,
/// lock-free. An access spans at most 65,536 TCEs; a longer one fails, since its length is the
/// guest's.
#[derive(Clone, Debug)]
pub struct PhbIommu(Arc<Phb>);

impl PhbIommu {
    /// Creates the IOMMU of a PHB.
    pub fn new(phb: Arc<Phb>) -> Self {
        Self(phb)
    }
}

/// The most TCEs that one access spans: 256 MiB of 4 KiB pages. The guest chooses the length, and
/// each TCE costs a lookup.
const MAX_TCES: u64 = 1 << 16;

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
        let requested = || IovaRange { base: iova, length };
        let fails = |reason: String| Error::CannotResolve { iova_range: requested(), reason };
        let end = iova.0.checked_add(length as u64).filter(|_| length != 0);
        let end = end.ok_or_else(|| fails("the range is empty or wraps".into()))?;
        let mut pages = Box::new(Iotlb::new());
        let (mut at, mut left) = (iova.0, MAX_TCES);
        while at < end {
            if left == 0 {
                return Err(fails(format!("the range spans more than {MAX_TCES} TCEs: access it in parts")));
            }
            let found = self.0.stretch(Iova(at), end - at, left);
            let found = found.filter(|found| rights(found.there.permission).allow(access));
            let found = found.ok_or_else(|| fails(format!("the guest does not allow it at {at:#x}")))?;
            let rights = rights(found.there.permission);
            pages.set_mapping(GuestAddress(at), GuestAddress(found.there.guest.0), found.len as usize, rights)?;
            at += found.len;
            left -= found.tces;
        }
        Iotlb::lookup(pages, iova, length, access).map_err(|_| fails("the range is not mapped throughout".into()))
    }
}
