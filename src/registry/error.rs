//! Errors of the registry: why memory cannot be registered, mapped or released.

use super::Lease;
use crate::addr::{IovaRange, List, PageShift, UserAddr, UserRange};
use crate::error::ErrorKind;
use crate::host::calls::CallError;
use crate::host::{Errno, MemlockError};
use core::fmt;

/// Why memory cannot be registered. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum RegisterError {
    /// Not whole pages of the host.
    #[error("{asked} is not aligned to the host page of {page}: register whole pages")]
    Misaligned { asked: UserRange, page: PageShift },
    /// Part of it is not mapped.
    #[error("{asked} has a hole at {hole}: map memory there first, or register around it")]
    Hole { asked: UserRange, hole: UserRange },
    /// Part of it cannot be pinned.
    #[error(
        "{asked} has memory at {part} that cannot be pinned (read-only, PROT_NONE or a device's): make it writable"
    )]
    NotPinnable { asked: UserRange, part: UserRange },
    /// The kernel could not pin a page that looked ordinary.
    #[error(
        "the kernel could not pin a page of {asked}, about {page} host pages into it: is it ordinary writable memory?"
    )]
    PageRefused {
        asked: UserRange,
        /// Number of pages the kernel pinned before it gave up, within its chunk.
        page: u32,
    },
    /// Part of it was leased before, and its region is still mapped elsewhere.
    #[error(
        "{asked}: {part} was released while the rest of its registration is still mapped, and devices would see the old \
         memory there: unmap the rest first"
    )]
    Stale { asked: UserRange, part: UserRange },
    /// A slice that is lent to devices for a while, which a lease might outlive.
    #[error("{asked} is lent for the time of a call, and a lease could outlive that: use memory of `Host::share`")]
    Lent { asked: UserRange },
    /// The process registered an overlapping range outside this registry.
    #[error("{asked} overlaps memory that this process registered elsewhere: one registry must own all registrations")]
    Foreign { asked: UserRange },
    /// More locked memory than allowed.
    #[error(transparent)]
    Memlock(#[from] MemlockError),
    /// The host cannot report what backs the memory.
    #[error("cannot read what backs the memory: {0}")]
    Backing(Errno),
    /// The kernel refused.
    #[error(transparent)]
    Call(#[from] CallError),
}

crate::error::classify!(RegisterError {
    Argument: Misaligned, Hole, NotPinnable;
    Busy: Stale, Foreign, Lent;
    Kernel: PageRefused, Backing;
    inner: Memlock.0, Call.0;
});

/// Why memory cannot be mapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum PinError {
    /// No lease covers it.
    #[error("{asked} is not registered at {missing}: register it and keep the lease while it is mapped")]
    NotRegistered { asked: UserRange, missing: UserRange },
    /// The window's page is larger than the memory can serve.
    #[error(
        "{asked} lies in registered {region}, which supports IOMMU pages up to {max_iommu_page}, but the window has {page} pages: \
         use a window with smaller pages, or hugetlb memory aligned to and sized in {page}"
    )]
    PageTooLarge { asked: UserRange, region: UserRange, max_iommu_page: PageShift, page: PageShift },
    /// An IOMMU page would lie in two regions.
    #[error("{asked}: the {page} IOMMU page around {at} lies in two registrations: register the memory in one call")]
    Straddles { asked: UserRange, at: UserAddr, page: PageShift },
    /// It had to be registered in one more container, which failed.
    #[error(transparent)]
    Register(#[from] RegisterError),
}

crate::error::classify!(PinError {
    Argument: PageTooLarge, Straddles;
    NotFound: NotRegistered;
    inner: Register.0;
});

/// Why memory was not released: devices can still reach it. The lease remains valid.
#[derive(Debug)]
pub struct ReleaseError {
    /// The lease, unchanged.
    pub lease: Lease,
    /// Bus addresses at which devices see it, over all address spaces.
    pub mapped: Vec<IovaRange>,
}

impl ReleaseError {
    /// Returns what the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Busy
    }

    /// Returns a stable name of the cause.
    pub fn code(&self) -> &'static str {
        "still-mapped"
    }
}

impl std::error::Error for ReleaseError {}

impl fmt::Display for ReleaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 4;
        let shown = &self.mapped[..self.mapped.len().min(SHOWN)];
        write!(f, "{} is still mapped at {}", self.lease.range(), List(shown))?;
        if let Some(more) = self.mapped.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            write!(f, " and {more} more ranges")?;
        }
        write!(f, ": unmap it first")
    }
}
