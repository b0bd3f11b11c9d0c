//! Leases: claims on registered memory.

use super::{Registry, ReleaseError};
use crate::addr::UserRange;
use crate::host::{Process, Shared};
use core::any::Any;
use core::fmt;
use std::sync::Arc;

/// Keeps a range of user memory registered until it is dropped or [released](Lease::release).
/// Memory still mapped at that time stays registered until its last TCE is gone, but no new map may
/// use it.
///
/// A lease on a [`Shared`](crate::host::Shared) keeps it: the process unmaps the memory only after
/// the lease is gone, and never if the lease is forgotten. Pages still mapped for devices then are
/// kept by the kernel, which gives them to nobody else.
///
/// Other memory must stay mapped in the process as it is: the kernel keeps the pages that were
/// present when it was registered, so after `munmap`, `mremap` or `madvise(MADV_DONTNEED)` devices
/// would see the old ones.
pub struct Lease {
    registry: Registry,
    range: UserRange,
    released: bool,
    /// Process that created it: a child of `fork` owns none of the registrations.
    process: Process,
    /// Keeps the memory mapped. Dropped last.
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

    /// Returns whether this process created it, rather than one it was forked from.
    pub(crate) fn is_here(&self) -> bool {
        self.process.is_current()
    }

    /// Releases the memory, unless a device can still reach a byte of it that no other lease
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
        // Otherwise devices would write to memory the allocator hands out next.
        if reached && let Some(owner) = self.owner.take_if(|owner| Shared::is_allocators(owner.as_ref())) {
            core::mem::forget(owner);
        }
    }
}
