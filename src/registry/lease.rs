//! A claim on registered memory.

use super::{Registry, ReleaseError};
use crate::addr::UserRange;

/// Keeps a range of user memory registered. Dropped or [released](Lease::release), it lets go; what is still mapped
/// stays registered until its last TCE is gone, but no new map may use it.
///
/// The memory must stay mapped in the process as it is: the kernel holds on to the pages that were there when it was
/// registered, so after `munmap`, `mremap` or `madvise(MADV_DONTNEED)` devices would see the old ones.
#[derive(Debug)]
pub struct Lease {
    registry: Registry,
    range: UserRange,
    released: bool,
}

impl Lease {
    pub(super) fn new(registry: Registry, range: UserRange) -> Self {
        Self { registry, range, released: false }
    }

    /// The memory.
    pub fn range(&self) -> UserRange {
        self.range
    }

    /// Gives the memory back, unless a device can still reach a byte of it that no other lease covers.
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
        if !self.released {
            self.registry.drop_lease(self.range);
        }
    }
}
