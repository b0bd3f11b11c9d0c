//! Checks the limit of locked memory before the kernel is called, because a refused charge is lost:
//! a failed window creation never gives its charge back (`tce_iommu_create_table`).

use crate::addr::Bytes;
use crate::host::{Errno, Host, Memlock};

/// Why bytes cannot be locked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
pub enum MemlockError {
    /// More than the limit allows.
    #[error(
        "{what} locks {}, {} more than allowed ({memlock}): raise the limit to {} KiB or more (`ulimit -l`, \
         LimitMEMLOCK= of the service) or give the process CAP_IPC_LOCK",
        Bytes(*needed),
        Bytes(*missing),
        memlock.locked.saturating_add(*needed).div_ceil(1024)
    )]
    OverLimit { what: &'static str, needed: u64, missing: u64, memlock: Memlock },
    /// The host cannot report the limit.
    #[error("cannot read how much memory is locked: {0}")]
    Unknown(Errno),
}

/// Checks that `needed` more bytes may be locked for `what`.
pub(crate) fn preflight(host: &dyn Host, what: &'static str, needed: u64) -> Result<(), MemlockError> {
    check(host.memlock().map_err(MemlockError::Unknown)?, what, needed)
}

/// Checks that `needed` more bytes may be locked, given the state of the process.
pub(crate) fn check(memlock: Memlock, what: &'static str, needed: u64) -> Result<(), MemlockError> {
    match memlock.missing(needed) {
        0 => Ok(()),
        missing => Err(MemlockError::OverLimit { what, needed, missing, memlock }),
    }
}
