//! Why KVM does not accelerate.

use crate::addr::{IovaRange, PageShift};
use crate::host::Errno;

/// Why something was not accelerated. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum KvmError {
    /// The kernel lacks something.
    #[error(
        "KVM here lacks {capability}: run on KVM of a POWER machine with Linux 6.12 or later, or without acceleration"
    )]
    Missing {
        /// The capability's name.
        capability: &'static str,
    },
    /// The VM has a VFIO device, which tables are tied through, and can have one only.
    #[error("the VM has a KVM VFIO device already: let this library make it")]
    DeviceTaken,
    /// A group is accelerated already.
    #[error("group {group} is known to the VM already: it is added once")]
    GroupTaken {
        /// The group.
        group: u32,
    },
    /// A group is not accelerated.
    #[error("group {group} is not known to the VM: add it first")]
    NoGroup {
        /// The group.
        group: u32,
    },
    /// Not the file of a group, or not one with this kernel's VFIO.
    #[error("KVM does not take the file of group {group}: is the group attached, on the running kernel?")]
    NotVfio {
        /// The group.
        group: u32,
    },
    /// Another table of the VM has the LIOBN.
    #[error("the VM has a table with LIOBN {liobn:#x}: close it first")]
    LiobnTaken {
        /// The LIOBN.
        liobn: u32,
    },
    /// No table has the LIOBN.
    #[error("the VM has no table with LIOBN {liobn:#x}")]
    NoTable {
        /// The LIOBN.
        liobn: u32,
    },
    /// Not whole pages.
    #[error("{window} is not aligned to {page} pages: a table has whole pages")]
    Misaligned {
        /// The window.
        window: IovaRange,
        /// The page.
        page: PageShift,
    },
    /// The group has no window like the table.
    #[error(
        "group {group} has no window that starts at {}, is no smaller than {window} and has pages of {page} or less: create it \
         before its table is accelerated",
        window.start()
    )]
    NoWindow {
        /// The group.
        group: u32,
        /// The table's bus addresses.
        window: IovaRange,
        /// The table's page.
        page: PageShift,
    },
    /// Too much memory would be locked, or there is none left.
    #[error(
        "the table of {entries:#x} entries cannot be had: raise RLIMIT_MEMLOCK by 8 bytes for each, or make it smaller"
    )]
    Memory {
        /// Entries.
        entries: u64,
    },
    /// The kernel refused for a reason that has no name here.
    #[error("{call} failed: {errno}")]
    Call {
        /// What was called.
        call: &'static str,
        /// The kernel's answer.
        errno: Errno,
    },
}
