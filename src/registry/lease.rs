//! Leases: claims on registered memory.

use super::{Registry, ReleaseError};
use crate::addr::UserRange;
use crate::host::Process;

/// Keeps a range of user memory registered until it is dropped or [released](Lease::release). What
/// is still mapped then stays registered until its last TCE is gone, but no new map may use it.
///
/// The memory must stay mapped in the process as it is: the kernel keeps the pages that were
/// present when it was registered, so after `munmap`, `mremap` or `madvise(MADV_DONTNEED)` devices
/// would see the old ones.
#[derive(Debug)]
pub struct Lease {
    registry: Registry,
    range: UserRange,
    released: bool,
    /// The process that made it: a child of `fork` has no part in what is registered.
    process: Process,
}

impl Lease {
    pub(super) fn new(registry: Registry, range: UserRange) -> Self {
        Self { registry, range, released: false, process: Process::current() }
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
        if !self.released && self.is_here() {
            self.registry.drop_lease(self.range);
        }
    }
}
