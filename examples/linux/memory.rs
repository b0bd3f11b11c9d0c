//! The guest's RAM: boot memory, and blocks that it plugs and unplugs.

use super::kvm::Vm;
use spapr_iommu::addr::{GuestAddr, GuestRange};
use spapr_iommu::guest::{GuestIommu, GuestMemory, VmMemory};
use std::error::Error;
use std::sync::{Arc, PoisonError};
use vm_memory::{GuestAddress, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap, GuestRegionMmap};

/// Bytes of a block of memory (LMB), which Linux plugs as a whole.
pub(crate) const BLOCK: u64 = 64 << 20;

/// KVM's memory slot of the first block. RAM has the first slot, and BARs the following ones.
const FIRST_BLOCK: u32 = 32;

/// RAM, for parts of the monitor that see blocks come and go.
pub(crate) type Map = GuestMemoryAtomic<GuestMemoryMmap>;

/// The RAM.
pub(crate) struct Ram {
    map: Map,
    memory: Arc<VmMemory<Map>>,
    /// Bytes with which the guest boots.
    boot: u64,
    blocks: u32,
    /// Lowest end of RAM that the guest is told.
    least_end: u64,
}

impl Ram {
    /// Maps `boot` bytes and gives them to the VM; up to `blocks` blocks may be plugged as well.
    /// The guest is told that its RAM may end at `least_end`, or at the end of the last block.
    pub(crate) fn new(vm: &Vm, boot: u64, blocks: u32, least_end: u64) -> Result<Self, Box<dyn Error>> {
        let ram = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), usize::try_from(boot)?)])?;
        let map = Map::new(ram);
        let memory = Arc::new(VmMemory::new(map.clone()));
        for (number, slot) in (0..).zip(memory.slots()) {
            // SAFETY: the memory is dropped after the VM; no references into it exist.
            unsafe { vm.add_memory(number, slot.guest.start().0, slot.user.0, slot.guest.len()) }?;
        }
        Ok(Self { map, memory, boot, blocks, least_end })
    }

    /// Returns it for emulated devices.
    pub(crate) fn map(&self) -> &Map {
        &self.map
    }

    /// Returns it for the library.
    pub(crate) fn memory(&self) -> &Arc<VmMemory<Map>> {
        &self.memory
    }

    /// Returns the bytes with which the guest boots.
    pub(crate) fn boot(&self) -> u64 {
        self.boot
    }

    /// Returns how many blocks may be plugged.
    pub(crate) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Returns the end of all RAM that can ever be plugged.
    pub(crate) fn end(&self) -> u64 {
        let end = if self.blocks == 0 { self.boot } else { self.start(self.blocks) };
        end.max(self.least_end)
    }

    /// Returns the address of a block.
    pub(crate) fn start(&self, block: u32) -> u64 {
        self.boot.next_multiple_of(BLOCK) + u64::from(block) * BLOCK
    }

    /// Plugs a block: first into the process, then for devices, then for the guest.
    pub(crate) fn plug(&self, vm: &Vm, iommu: &GuestIommu, block: u32) -> Result<(), Box<dyn Error>> {
        let region = Arc::new(GuestRegionMmap::from_range(GuestAddress(self.start(block)), BLOCK as usize, None)?);
        let user = region.as_ptr() as u64;
        self.replace(&self.map.memory().insert_region(region)?);
        let given = iommu.add_memory().map_err(Into::into).and_then(|()| self.give(vm, block, user));
        if given.is_err() {
            // Fails if the block was not added.
            let _ = iommu.remove_memory(self.range(block)?);
            self.take_out(block)?;
        }
        given
    }

    /// Unplugs a block, in the reverse order. It stays if a TCE leads into it.
    pub(crate) fn unplug(&self, vm: &Vm, iommu: &GuestIommu, block: u32) -> Result<(), Box<dyn Error>> {
        let range = self.range(block)?;
        let slot = self.memory.slots().into_iter().find(|slot| slot.guest == range).ok_or("it is not plugged")?;
        vm.remove_memory(FIRST_BLOCK + block)?;
        if let Err(error) = iommu.remove_memory(range) {
            iommu.keep_memory(range)?;
            self.give(vm, block, slot.user.0)?;
            return Err(error.into());
        }
        self.take_out(block)
    }

    fn give(&self, vm: &Vm, block: u32, user: u64) -> Result<(), Box<dyn Error>> {
        // SAFETY: the memory leaves the map, which keeps it, only after it was taken from the VM;
        // no references into it exist.
        Ok(unsafe { vm.add_memory(FIRST_BLOCK + block, self.start(block), user, BLOCK) }?)
    }

    fn take_out(&self, block: u32) -> Result<(), Box<dyn Error>> {
        let (map, _) = self.map.memory().remove_region(GuestAddress(self.start(block)), BLOCK)?;
        self.replace(&map);
        Ok(())
    }

    fn replace(&self, map: &GuestMemoryMmap) {
        self.map.lock().unwrap_or_else(PoisonError::into_inner).replace(map.clone());
    }

    fn range(&self, block: u32) -> Result<GuestRange, Box<dyn Error>> {
        Ok(GuestRange::new(GuestAddr(self.start(block)), BLOCK)?)
    }
}
