//! Why a hypercall is refused, and the architecture's code for it.

use super::entries::TableFull;
use super::liobn::Liobn;
use super::memory::NoMemory;
use crate::addr::{GuestAddr, GuestRange, Iova, IovaRange, PageShift};
use crate::space::{MapError, UnmapError};
use crate::uapi::papr::hcall::{H_HARDWARE, H_NOT_ENOUGH_RESOURCES, H_PARAMETER, MAX_INDIRECT, MAX_STUFFED};

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
    #[error("{count} TCEs in one list, {MAX_INDIRECT} at most")]
    TooMany { count: u64 },
    /// A list is not aligned to a 4 KiB page.
    #[error("the list of TCEs at {list} is not aligned to 4K")]
    ListMisaligned { list: GuestAddr },
    /// A list is not in RAM.
    #[error("the list of TCEs is not in the guest's RAM")]
    List(#[source] NoMemory),
    /// A TCE's address is not at a page of the window.
    #[error("TCE {tce:#x} does not point to one of the window's {page} pages")]
    TceMisaligned { tce: u64, page: PageShift },
    /// A TCE points to an address without RAM.
    #[error("a TCE points to {at}, where the guest has no RAM")]
    NotRam { at: GuestAddr },
    /// A TCE points to RAM that is being removed, which the guest has not noticed yet.
    #[error("a TCE points to {at} in {slot}, which is being removed: has the guest been told?")]
    Unplugging { at: GuestAddr, slot: GuestRange },
    /// H_STUFF_TCE only clears; KVM refuses rights there as well (`kvmppc_h_stuff_tce`).
    #[error("H_STUFF_TCE with TCE {tce:#x}, which gives rights: only clearing is possible")]
    StuffsRights {
        /// The TCE.
        tce: u64,
    },
    /// More TCEs than one call may clear.
    #[error("H_STUFF_TCE of {count} TCEs, {MAX_STUFFED} at most: clear them in several calls")]
    StuffsTooMany {
        /// What the guest named.
        count: u64,
    },
    /// The table would take more memory than it may.
    #[error(
        "the table would take {needed} bytes, {limit} at most: raise PhbConfig::table_memory, or have the guest \
         give up the window"
    )]
    TableFull {
        /// Bytes it would take.
        needed: u64,
        /// Bytes it may take.
        limit: u64,
    },
    /// The VMM took RAM away without a word.
    #[error("a TCE points to {at} in {slot}, which the VMM took away: call remove_memory before a slot goes")]
    Gone {
        /// Where it points.
        at: GuestAddr,
        /// What was registered.
        slot: GuestRange,
    },
    /// The host could not map.
    #[error(transparent)]
    Map(#[from] MapError),
    /// The host could not unmap.
    #[error(transparent)]
    Unmap(#[from] UnmapError),
}

impl HcallError {
    /// What the guest gets (LoPAR): `H_HARDWARE` where the host failed, `H_NOT_ENOUGH_RESOURCES`
    /// where its table would take too much memory, `H_PARAMETER` for its own mistakes.
    pub fn code(&self) -> i64 {
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
