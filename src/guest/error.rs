//! Errors of hypercalls, and the architecture's return codes for them.

use super::entries::TableFull;
use super::memory::NoMemory;
use crate::addr::{GuestAddr, GuestRange, Iova, IovaRange, Liobn, PageShift};
use crate::space::{MapError, UnmapError};
use crate::uapi::papr::hcall::{H_HARDWARE, H_NOT_ENOUGH_RESOURCES, H_PARAMETER, MAX_INDIRECT, MAX_STUFFED};

/// Why a TCE hypercall was refused. The guest gets [`Self::return_code`]; the rest is for the VMM
/// to log. Nothing has changed, except after [`HcallError::Unmap`] or if [`HcallError::Map`] says
/// what was lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
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
    #[error("a list has {count} TCEs, but at most {MAX_INDIRECT} are possible")]
    TooMany { count: u64 },
    /// A list is not aligned to a 4 KiB page.
    #[error("the list of TCEs at {list} is not aligned to 4K")]
    ListMisaligned { list: GuestAddr },
    /// A list is not in RAM.
    #[error("the list of TCEs is not in the guest's RAM")]
    List(#[source] NoMemory),
    /// A TCE's address is not aligned to the window's page.
    #[error("TCE {tce:#x} does not point to one of the window's {page} pages")]
    TceMisaligned { tce: u64, page: PageShift },
    /// A TCE leads to an address without RAM.
    #[error("a TCE leads to {at}, where the guest has no RAM")]
    NotRam { at: GuestAddr },
    /// A TCE leads to RAM that is being removed.
    #[error("a TCE leads to {at} in {slot}, which is being removed: tell the guest, or call keep_memory")]
    Unplugging { at: GuestAddr, slot: GuestRange },
    /// H_STUFF_TCE only clears; KVM refuses rights there as well (`kvmppc_h_stuff_tce`).
    #[error("H_STUFF_TCE with TCE {tce:#x}, which gives rights: it can only clear")]
    StuffsRights { tce: u64 },
    /// More TCEs than one call may clear.
    #[error("H_STUFF_TCE of {count} TCEs, but at most {MAX_STUFFED} are possible: clear them in several calls")]
    StuffsTooMany { count: u64 },
    /// The table would take more memory than it may.
    #[error(
        "the table would take {needed} bytes of {limit} allowed: raise PhbConfig::table_memory, or have the guest \
         remove the window"
    )]
    TableFull { needed: u64, limit: u64 },
    /// A TCE leads to RAM that the VMM took away without `remove_memory`.
    #[error("a TCE leads to {at} in {slot}, which the VMM took away: call remove_memory before a slot is removed")]
    Gone { at: GuestAddr, slot: GuestRange },
    /// The host could not map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The host could not unmap.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
}

crate::error::classify!(HcallError {
    Argument: Misaligned, Outside, TooMany, ListMisaligned, List, TceMisaligned, NotRam, StuffsRights, StuffsTooMany;
    NotFound: NoTable, Gone;
    Busy: Unplugging;
    NoMemory: TableFull;
    inner: Map.0, Unmap.0;
});

impl HcallError {
    /// Returns what the guest gets (LoPAR, hypervisor call return codes): `H_HARDWARE` if the host
    /// failed, `H_NOT_ENOUGH_RESOURCES` if its table would take too much memory, `H_PARAMETER` for
    /// its own mistakes.
    pub fn return_code(&self) -> i64 {
        match self {
            Self::Map(_) | Self::Unmap(_) => H_HARDWARE,
            Self::TableFull { .. } => H_NOT_ENOUGH_RESOURCES,
            _ => H_PARAMETER,
        }
    }
}

impl From<TableFull> for HcallError {
    fn from(TableFull { needed, limit }: TableFull) -> Self {
        Self::TableFull { needed, limit }
    }
}
