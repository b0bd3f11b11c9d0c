//! Errors of KVM acceleration.

use crate::addr::{IovaRange, PageShift};
use crate::host::Errno;

/// Why something was not accelerated. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
pub enum KvmError {
    /// The kernel lacks a capability.
    #[error(
        "KVM here lacks {capability}: run on KVM of a POWER machine with Linux 6.12 or later, or without acceleration"
    )]
    Missing { capability: &'static str },
    /// The VM already has a VFIO device. A VM can have only one, and attaching tables needs it.
    #[error("the VM has a KVM VFIO device already: let this library make it")]
    DeviceTaken,
    /// The group is already accelerated.
    #[error("group {group} is known to the VM already: it is added once")]
    GroupTaken { group: u32 },
    /// The group is not accelerated.
    #[error("group {group} is not known to the VM: add it first")]
    NoGroup { group: u32 },
    /// Not the file of a group, or not of a group of the running kernel's VFIO.
    #[error("KVM does not take the file of group {group}: is the group attached, on the running kernel?")]
    NotVfio { group: u32 },
    /// Another table of the VM has the LIOBN.
    #[error("the VM has a table with LIOBN {liobn:#x}: close it first")]
    LiobnTaken { liobn: u32 },
    /// No table has the LIOBN.
    #[error("the VM has no table with LIOBN {liobn:#x}")]
    NoTable { liobn: u32 },
    /// The window does not consist of whole pages.
    #[error("{window} is not aligned to {page} pages: a table has whole pages")]
    Misaligned { window: IovaRange, page: PageShift },
    /// The group has no window that matches the table.
    #[error(
        "group {group} has no window that starts at {}, is no smaller than {window} and has pages of {page} or less: create it \
         before its table is accelerated",
        window.start()
    )]
    NoWindow { group: u32, window: IovaRange, page: PageShift },
    /// The table would exceed the limit of locked memory, or memory is exhausted.
    #[error(
        "the table of {entries:#x} entries cannot be had: raise RLIMIT_MEMLOCK by 8 bytes for each, or make it smaller"
    )]
    Memory { entries: u64 },
    /// The kernel refused for a reason without a variant of its own.
    #[error("{call} failed: {errno}")]
    Call { call: &'static str, errno: Errno },
}
