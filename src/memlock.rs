//! Locked memory: asked before the kernel is, because a refused charge is lost (a failed window creation never gives
//! its charge back: `tce_iommu_create_table`).

use crate::addr::Amount;
use crate::host::{Errno, Host, Memlock};

/// Why bytes cannot be locked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum MemlockError {
    /// Over the limit.
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
    /// The host does not tell.
    #[error("cannot read how much memory is locked: {0}")]
    Unknown(Errno),
}

/// Whether `needed` more bytes may be locked for `what`.
pub(crate) fn preflight(host: &dyn Host, what: &'static str, needed: u64) -> Result<(), MemlockError> {
    check(host.memlock().map_err(MemlockError::Unknown)?, what, needed)
}

/// Whether `needed` more bytes may be locked, by what is known of the process.
pub(crate) fn check(memlock: Memlock, what: &'static str, needed: u64) -> Result<(), MemlockError> {
    match memlock.missing(needed) {
        0 => Ok(()),
        missing => Err(MemlockError::OverLimit { what, needed, missing, memlock }),
    }
}
