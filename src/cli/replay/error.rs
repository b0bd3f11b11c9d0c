//! Why a trace cannot be read or replayed.

use crate::machine::NotHere;
use spapr_iommu::addr::{Bytes, PageShift, RangeError};
use spapr_iommu::guest::{AddMemoryError, PhbError, SlotError};
use spapr_iommu::host::Errno;
use std::io;

/// Largest number of bytes in a line; QEMU's longest is below 200.
pub(super) const MAX_LINE: u64 = 4096;

/// Why a file is not a trace that can be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message names each field")]
pub enum TraceError {
    /// The file cannot be opened.
    #[error("cannot open the trace: {0}")]
    Open(io::Error),
    /// The file cannot be read, or is damaged .xz.
    #[error("line {line}: cannot read further: {error}; if this is .xz, check it with `xz --test`")]
    Read {
        /// The line that could not be read, from 1.
        line: u64,
        error: io::Error,
    },
    /// A `spapr_iommu_*` line does not have QEMU's format.
    #[error(
        "line {line}, column {column}: expected {expected}: {text:?}: is the line cut, or were two written at once?"
    )]
    Malformed { line: u64, column: usize, expected: String, text: String },
    /// The last line has no end: QEMU may not have written all of it.
    #[error("line {line}: the last line has no line end, so it may be cut: remove it, or end it")]
    Cut { line: u64 },
    /// A line is too long for a trace.
    #[error("line {line}: longer than {MAX_LINE} bytes: this is not a trace of QEMU")]
    TooLong {
        /// The line, from 1.
        line: u64,
    },
    /// More events than are kept in memory.
    #[error(
        "line {line}: more than {limit} events: replay the lines before it, which are a trace too, or allow more events \
         (`Trace::read_limited`)"
    )]
    TooMany {
        /// The line of the first event that is too many, from 1.
        line: u64,
        /// The most events.
        limit: usize,
    },
    /// There is nothing to replay.
    #[error(
        "no spapr_iommu_* event in {lines} lines: run QEMU with -trace 'spapr_iommu_*' and an emulated PCI device behind \
         a spapr-pci-host-bridge"
    )]
    Empty { lines: u64 },
    /// A window is used whose creation the trace does not show.
    #[error(
        "line {line}: LIOBN {liobn:#x} has no window here: the trace must begin with the machine, as with QEMU's \
         option -trace"
    )]
    NoWindow { line: u64, liobn: u64 },
    /// An event that QEMU cannot have printed.
    #[error("line {line}: {what}")]
    Impossible { line: u64, what: &'static str },
}

/// Why a trace cannot be replayed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message names each field")]
pub enum ReplayError {
    /// The trace is inconsistent.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// The host does not allow it.
    #[error(transparent)]
    NotHere(#[from] NotHere),
    /// The guest's RAM cannot be allocated.
    #[error(
        "cannot allocate {} of RAM for the guest: {errno}: set `Options::memory` to the size the guest had",
        Bytes(*bytes)
    )]
    Memory { bytes: u64, errno: Errno },
    /// The guest's RAM is not whole pages of the host.
    #[error("{} of RAM for the guest is not one or more of the host's {page} pages", Bytes(*bytes))]
    MemorySize { bytes: u64, page: PageShift },
    /// The default window is not whole pages.
    #[error("a default window of {bytes:#x} bytes is not a multiple of its 4K page")]
    DefaultWindow { bytes: u64 },
    /// A size is invalid.
    #[error(transparent)]
    Size(#[from] RangeError),
    /// Guest RAM overlaps.
    #[error(transparent)]
    Slots(#[from] SlotError),
    /// The guest's RAM cannot be registered.
    #[error("the guest's RAM: {0}")]
    Register(AddMemoryError),
    /// The caller ended it.
    #[error("interrupted after {done} of {all} steps; everything was released")]
    Interrupted { done: usize, all: usize },
    /// A bridge could not be created, or no group attached to it.
    #[error("a PCI host bridge of the guest: {0}")]
    Bridge(PhbError),
}
