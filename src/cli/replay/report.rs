//! What a replay came to, for people and programs.

use crate::scenario::{End, HostNote};
use serde::Serialize;

/// Differences that are told one by one; all are counted.
pub(super) const MOST_DIFFERENCES: usize = 100;
/// Answers to queries that are told.
pub(super) const MOST_OFFERS: usize = 16;

/// What a replay came to.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Which host it was.
    pub host: HostNote,
    /// `powernv` or `pseries`.
    pub platform: Option<String>,
    /// The host kernel's page, bytes.
    pub page: u64,
    /// The guest's RAM, bytes.
    pub memory: u64,
    /// PCI host bridges, each with a group of the host.
    pub bridges: usize,
    /// Lines of the trace.
    pub lines: Lines,
    /// Hypercalls, by kind.
    pub hypercalls: Hypercalls,
    /// RTAS calls, by kind.
    pub rtas: Rtas,
    /// Times the machine started again.
    pub machine_resets: u64,
    /// TCEs that were written, by the hypercall that wrote them.
    pub tces: Tces,
    /// Entries of lists, by how they are known.
    pub entries: Entries,
    /// Calls of the kernel for what the guest did.
    pub ioctls: Ioctls,
    /// Translations of emulated devices.
    pub translations: Translations,
    /// What queries said under QEMU and say here, the first 16 that differ from each other; it is what the host can back.
    pub offers: Vec<Offers>,
    /// What came out otherwise than under QEMU, the first 100.
    pub differences: Vec<Difference>,
    /// How many differences there are.
    pub different: u64,
    /// What was left when everything had been given back.
    pub end: End,
    /// No difference, and nothing left.
    pub passed: bool,
}

/// Lines of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lines {
    /// All of them.
    pub all: u64,
    /// Events that were replayed.
    pub events: u64,
    /// Of `spapr_iommu_*` trace points that are not replayed.
    pub other_iommu: u64,
    /// Of other trace points, and what else QEMU printed.
    pub other: u64,
}

/// Hypercalls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Hypercalls {
    /// H_PUT_TCE.
    pub put: u64,
    /// H_GET_TCE.
    pub get: u64,
    /// H_STUFF_TCE.
    pub stuff: u64,
    /// H_PUT_TCE_INDIRECT.
    pub indirect: u64,
}

/// RTAS calls for dynamic DMA windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rtas {
    /// ibm,query-pe-dma-window.
    pub query: u64,
    /// ibm,create-pe-dma-window.
    pub create: u64,
    /// ibm,remove-pe-dma-window.
    pub remove: u64,
    /// ibm,reset-pe-dma-window.
    pub reset: u64,
}

/// TCEs that were written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tces {
    /// By H_PUT_TCE.
    pub put: u64,
    /// By H_STUFF_TCE.
    pub stuff: u64,
    /// By H_PUT_TCE_INDIRECT.
    pub indirect: u64,
}

/// Entries of lists, by how they are known (docs/replay.md).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Entries {
    /// In the trace: the last of each list.
    pub last: u64,
    /// Inferred: the window maps RAM directly.
    pub direct: u64,
    /// Inferred: a later line shows it.
    pub seen: u64,
    /// Inferred: it lies between two that continue each other.
    pub run: u64,
    /// Unknown, and replayed as no mapping.
    pub unknown: u64,
}

/// Calls of the kernel for what the guest did, without attaching and detaching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ioctls {
    /// VFIO_IOMMU_MAP_DMA.
    pub map: u64,
    /// VFIO_IOMMU_UNMAP_DMA.
    pub unmap: u64,
    /// What one per TCE would have been, as QEMU sends them without acceleration.
    pub one_per_tce: u64,
}

/// Translations of emulated devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Translations {
    /// Compared with QEMU's.
    pub compared: u64,
    /// The proof of an entry, so not compared.
    pub proofs: u64,
    /// Of an entry that is unknown.
    pub unknown: u64,
}

/// What ibm,query-pe-dma-window says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// Windows left.
    pub windows: u32,
    /// The largest block, TCEs. Old versions of QEMU print bytes.
    pub largest: u64,
    /// Page sizes, LoPAR's mask.
    pub pages: u32,
}

/// The same query in both places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Offers {
    /// The first such line.
    pub line: u64,
    /// Under QEMU.
    pub qemu: Offer,
    /// Here.
    pub here: Offer,
}

/// Something that came out otherwise than under QEMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The line of the trace.
    pub line: u64,
    /// What was done.
    pub what: String,
    /// What came of it under QEMU.
    pub qemu: String,
    /// What came of it here.
    pub here: String,
}

impl core::fmt::Display for Difference {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: QEMU {}, here {}", self.what, self.qemu, self.here)
    }
}

impl Hypercalls {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.put + self.get + self.stuff + self.indirect
    }
}

impl Rtas {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.query + self.create + self.remove + self.reset
    }
}

impl Tces {
    /// All of them.
    pub fn all(&self) -> u64 {
        self.put + self.stuff + self.indirect
    }
}

impl Entries {
    /// All that are inferred.
    pub fn inferred(&self) -> u64 {
        self.direct + self.seen + self.run
    }
}
