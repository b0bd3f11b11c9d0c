//! The report of a replay, for people and programs.

use crate::machine::HostNote;
use crate::scenario::End;
use serde::Serialize;

/// Largest number of differences listed; all are counted.
pub(super) const MAX_DIFFERENCES: usize = 100;
/// Largest number of answers to queries listed.
pub(super) const MAX_OFFERS: usize = 16;

/// The result of a replay.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The host it ran on.
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
    /// Number of times the machine was reset.
    pub machine_resets: u64,
    /// TCEs written, by the hypercall that wrote them.
    pub tces: Tces,
    /// Entries of lists, by how they are known.
    pub entries: Entries,
    /// Kernel calls for the guest's calls.
    pub ioctls: Ioctls,
    /// Translations of emulated devices.
    pub translations: Translations,
    /// Answers to queries under QEMU and here, the first 16 that differ from each other; they
    /// depend on what the host can back.
    pub offers: Vec<Offers>,
    /// Results that differ from QEMU's, the first 100.
    pub differences: Vec<Difference>,
    /// Number of differences.
    pub different: u64,
    /// What was left after everything was released.
    pub end: End,
    /// Whether there is no difference, and nothing was left.
    pub passed: bool,
}

/// Lines of a trace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lines {
    /// Number of all lines.
    pub all: u64,
    /// Events that were replayed.
    pub events: u64,
    /// Lines of `spapr_iommu_*` trace points that are not replayed.
    pub other_iommu: u64,
    /// Lines of other trace points, and other output of QEMU.
    pub other: u64,
}

/// Number of hypercalls, by kind.
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

/// Number of RTAS calls for dynamic DMA windows, by kind.
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

/// Number of TCEs written, by hypercall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tces {
    /// Written by H_PUT_TCE.
    pub put: u64,
    /// Written by H_STUFF_TCE.
    pub stuff: u64,
    /// Written by H_PUT_TCE_INDIRECT.
    pub indirect: u64,
}

/// Number of list entries, by how they are known (docs/replay.md).
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

/// Number of kernel calls for the guest's calls, without attaching and detaching.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ioctls {
    /// VFIO_IOMMU_MAP_DMA.
    pub map: u64,
    /// VFIO_IOMMU_UNMAP_DMA.
    pub unmap: u64,
    /// What one call per TCE would be, as QEMU makes them without acceleration.
    pub one_per_tce: u64,
}

/// Number of translations of emulated devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Translations {
    /// Compared with QEMU's.
    pub compared: u64,
    /// Used as the proof of an entry, so not compared.
    pub proofs: u64,
    /// Of an entry that is unknown.
    pub unknown: u64,
}

/// An answer of ibm,query-pe-dma-window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Offer {
    /// Windows left.
    pub windows: u32,
    /// The largest block, in TCEs. Old versions of QEMU print bytes.
    pub largest: u64,
    /// Page sizes, as LoPAR's mask.
    pub pages: u32,
}

/// The answers to the same query under QEMU and here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Offers {
    /// The first line with this query.
    pub line: u64,
    /// Answer under QEMU.
    pub qemu: Offer,
    /// Answer here.
    pub here: Offer,
}

/// A result that differs from QEMU's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The line of the trace.
    pub line: u64,
    /// The step.
    pub what: String,
    /// Result under QEMU.
    pub qemu: String,
    /// Result here.
    pub here: String,
}

impl core::fmt::Display for Difference {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}: QEMU {}, here {}", self.what, self.qemu, self.here)
    }
}

impl Hypercalls {
    /// Returns the number of all hypercalls.
    pub fn all(&self) -> u64 {
        self.put + self.get + self.stuff + self.indirect
    }
}

impl Rtas {
    /// Returns the number of all RTAS calls.
    pub fn all(&self) -> u64 {
        self.query + self.create + self.remove + self.reset
    }
}

impl Tces {
    /// Returns the number of all TCEs.
    pub fn all(&self) -> u64 {
        self.put + self.stuff + self.indirect
    }
}

impl Entries {
    /// Returns the number of all inferred entries.
    pub fn inferred(&self) -> u64 {
        self.direct + self.seen + self.run
    }
}
