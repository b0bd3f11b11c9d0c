//! Leases: claims on registered memory.

use super::{Registry, ReleaseError};
use crate::addr::UserRange;
use crate::host::{Process, Shared};
use core::any::Any;
use core::fmt;
use std::sync::Arc;

/// Keeps a range of user memory registered until it is dropped or [released](Lease::release). What
/// is still mapped then stays registered until its last TCE is gone, but no new map may use it.
///
/// A lease on a [`Shared`](crate::host::Shared) keeps it: the memory is unmapped from the process
/// after the lease is gone, also where the lease is forgotten. What is mapped for devices even then
/// are pages that the kernel keeps for them and gives to nobody else.
///
/// Other memory must stay mapped in the process as it is: the kernel keeps the pages that were
/// present when it was registered, so after `munmap`, `mremap` or `madvise(MADV_DONTNEED)` devices
/// would see the old ones.
pub struct Lease {
    registry: Registry,
    range: UserRange,
    released: bool,
    /// The process that made it: a child of `fork` has no part in what is registered.
    process: Process,
    /// What keeps the memory mapped. Dropped last.
    owner: Option<Owner>,
}

/// Keeps memory mapped in the process as long as it is held.
pub(crate) type Owner = Arc<dyn Any + Send + Sync>;

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.range)
    }
}

impl Lease {
    pub(super) fn new(registry: Registry, range: UserRange, owner: Option<Owner>) -> Self {
        Self { registry, range, released: false, process: Process::current(), owner }
    }

    /// Returns the memory it keeps registered.
    pub fn range(&self) -> UserRange {
        self.range
    }

    /// Whether this process made it, not one it was forked from.
    pub(crate) fn is_here(&self) -> bool {
        self.process.is_current()
    }

    /// Gives the memory back, unless a device can still reach a byte of it that no other lease
    /// covers.
    pub fn release(mut self) -> Result<(), ReleaseError> {
        match self.registry.release(self.range) {
            Ok(()) => {
                self.released = true;
                Ok(())
            }
            Err(mapped) => Err(ReleaseError { lease: self, mapped }),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.released || !self.is_here() {
            return;
        }
        let reached = self.registry.drop_lease(self.range);
        // Devices would write to what the allocator puts there next.
        if reached && let Some(owner) = self.owner.take_if(|owner| Shared::is_allocators(owner.as_ref())) {
            core::mem::forget(owner);
        }
    }
}
