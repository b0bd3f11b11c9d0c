//! Checks the limit of locked memory before the kernel is called, because a refused charge is lost:
//! a failed window creation never gives its charge back (`tce_iommu_create_table`).

use crate::addr::Amount;
use crate::host::{Errno, Host, Memlock};

/// Why bytes cannot be locked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum MemlockError {
    /// More than the limit allows.
    #[error(
        "{} to lock for {what} are {} more than allowed ({memlock}): raise the limit to {} KiB or more (`ulimit -l`, \
         LimitMEMLOCK= of the service) or give the process CAP_IPC_LOCK",
        Amount(*needed),
        Amount(*missing),
        memlock.locked.saturating_add(*needed).div_ceil(1024)
    )]
    OverLimit {
        /// What asks.
        what: &'static str,
        /// Bytes to lock.
        needed: u64,
        /// Bytes over the limit.
        missing: u64,
        /// What is locked and allowed.
        memlock: Memlock,
    },
    /// Over the limit with what default windows in use will lock.
    #[error(
        "{} to lock for {what} are {} more than allowed ({memlock}, and {} promised to default windows): raise the limit to \
         {} KiB or more (`ulimit -l`, LimitMEMLOCK= of the service) or give the process CAP_IPC_LOCK",
        Amount(*needed),
        Amount(*missing),
        Amount(*promised),
        memlock.locked.saturating_add(*promised).saturating_add(*needed).div_ceil(1024)
    )]
    OverPromise {
        /// What asks.
        what: &'static str,
        /// Bytes to lock.
        needed: u64,
        /// Bytes over the limit.
        missing: u64,
        /// What is locked and allowed.
        memlock: Memlock,
        /// Bytes that default windows in use will lock with their first map.
        promised: u64,
    },
    /// The host does not tell.
    #[error("cannot read how much memory is locked: {0}")]
    Unknown(Errno),
}

crate::error::classify!(MemlockError { Memlock: OverLimit, OverPromise; Kernel: Unknown; });

/// Reads how much is locked and allowed.
pub(crate) fn read(host: &dyn Host) -> Result<Memlock, MemlockError> {
    host.memlock().map_err(MemlockError::Unknown)
}

/// Checks that `needed` more bytes may be locked for `what`, besides those that are `promised`.
pub(crate) fn check(memlock: Memlock, promised: u64, what: &'static str, needed: u64) -> Result<(), MemlockError> {
    // What locks nothing is never refused, however much others were promised.
    let missing = if needed == 0 { 0 } else { memlock.missing(needed.saturating_add(promised)) };
    match (missing, promised) {
        (0, _) => Ok(()),
        (_, 0) => Err(MemlockError::OverLimit { what, needed, missing, memlock }),
        _ => Err(MemlockError::OverPromise { what, needed, missing, memlock, promised }),
    }
}
