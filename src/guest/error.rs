//! Why a hypercall is refused, and the architecture's code for it.

use super::liobn::Liobn;
use super::memory::NoMemory;
use crate::addr::{GuestAddr, GuestRange, Iova, IovaRange, PageShift};
use crate::space::{MapError, UnmapError};
use crate::uapi::papr::hcall::{H_HARDWARE, H_PARAMETER, MOST_INDIRECT};

/// Why a TCE hypercall is refused. The guest gets [`Self::code`]; the rest is for the VMM to log.
/// The table and the devices' view are as before, except with [`HcallError::Unmap`] or if the map
/// says what it lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
pub enum HcallError {
    /// No window has this LIOBN.
    #[error("there is no table with {liobn}")]
    NoTable { liobn: Liobn },
    /// The IOBA is not aligned to a page of the window.
    #[error("IOBA {ioba} is not aligned to the window's {page} pages")]
    Misaligned { ioba: Iova, page: PageShift },
    /// The pages extend past the window.
    #[error("{count} pages at IOBA {ioba} do not lie in the window {window}")]
    Outside { ioba: Iova, count: u64, window: IovaRange },
    /// A list has too many TCEs.
    #[error("{count} TCEs in one list, {MOST_INDIRECT} at most")]
    TooMany { count: u64 },
    /// A list is not aligned to a 4 KiB page.
    #[error("the list of TCEs at {list} is not aligned to 4K")]
    ListMisaligned { list: GuestAddr },
    /// A list is not in RAM.
    #[error("the list of TCEs: {0}")]
    List(NoMemory),
    /// A TCE's address is not aligned to a page of the window.
    #[error("TCE {tce:#x} does not point to one of the window's {page} pages")]
    TceMisaligned { tce: u64, page: PageShift },
    /// A TCE points to an address without RAM.
    #[error("a TCE points to {at}, where the guest has no RAM")]
    NotRam { at: GuestAddr },
    /// A TCE points to RAM that is being removed, which the guest has not noticed yet.
    #[error("a TCE points to {at} in {slot}, which is being removed: has the guest been told?")]
    Leaving { at: GuestAddr, slot: GuestRange },
    /// H_STUFF_TCE only clears; KVM refuses rights there as well (`kvmppc_h_stuff_tce`).
    #[error("H_STUFF_TCE with TCE {tce:#x}, which gives rights: only clearing is possible")]
    StuffsRights { tce: u64 },
    /// The host could not map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The host could not unmap.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
}

impl HcallError {
    /// Returns the code for the guest (LoPAR): `H_HARDWARE` if the host failed, `H_PARAMETER` for
    /// the guest's own mistakes.
    pub fn code(&self) -> i64 {
        match self {
            Self::Map(_) | Self::Unmap(_) => H_HARDWARE,
            _ => H_PARAMETER,
        }
    }
}
