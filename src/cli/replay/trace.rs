//! A whole trace: its events, and the number of its other lines.

use super::build::{bridge_with, is_default};
use super::line::{self, Event, Line};
use super::open;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;

/// Largest number of bytes in a line; QEMU's longest is below 200.
const LONGEST: u64 = 4096;
/// Number of characters of a line that an error shows.
const SHOWN: usize = 160;
/// Lines between two progress reports.
const STRIDE: u64 = 4096;

/// The contents of a trace file, in order.
#[derive(Debug, Default)]
pub struct Trace {
    /// Each event with its line number, from 1.
    pub(super) events: Vec<(u64, Event)>,
    /// Number of lines in the file.
    pub(super) lines: u64,
    /// Number of lines of `spapr_iommu_*` trace points that are not replayed.
    pub(super) other_iommu: u64,
    /// Number of lines of other trace points.
    pub(super) other: u64,
    /// Events that say no more than that their bridge exists: tables that are not of a default
    /// window.
    pub(super) tables: u64,
    /// LIOBNs of the default windows of the bridges that those named.
    pub(super) named: BTreeSet<u64>,
}

impl Trace {
    /// Events that are kept in memory when nothing else is said: some 150 bytes each while they are
    /// replayed.
    pub const MAX_EVENTS: usize = 4 << 20;
}

/// Why a file is not a trace that can be replayed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message names each field")]
pub enum TraceError {
    /// The file cannot be opened.
    #[error("cannot open the trace: {0}")]
    Open(io::Error),
    /// The file cannot be read, or is damaged .xz.
    #[error("line {line}: cannot read on: {error}; if this is .xz, `xz --test` tells whether it is whole")]
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
    #[error("line {line}: the last line has no line end, so it may be cut: take it out, or end it")]
    Cut { line: u64 },
    /// A line is too long for a trace.
    #[error("line {line}: longer than {LONGEST} bytes: this is no trace of QEMU")]
    TooLong {
        /// The line, from 1.
        line: u64,
    },
    /// More events than are kept in memory.
    #[error(
        "line {line}: more than {limit} events: replay the lines before, which are a trace, too, or allow more events \
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
        "line {line}: LIOBN {liobn:#x} has no window here: the trace has to begin with the machine, as with QEMU's \
         option -trace"
    )]
    NoWindow { line: u64, liobn: u64 },
    /// An event that QEMU cannot have printed.
    #[error("line {line}: {what}")]
    Impossible { line: u64, what: &'static str },
}

impl Trace {
    /// Reads the trace at `path`, plain or .xz, of at most [`Trace::MAX_EVENTS`]. `progress` is
    /// told the lines read so far now and then.
    ///
    /// # Errors
    /// [`TraceError`] for a file that cannot be read, a malformed `spapr_iommu_*` line, or a file
    /// with none or too many.
    pub fn read(path: &Path, progress: impl FnMut(u64)) -> Result<Self, TraceError> {
        Self::read_limited(File::open(path).map_err(TraceError::Open)?, Self::MAX_EVENTS, progress)
    }

    /// Reads a trace, plain or .xz, of at most `limit` events, from anything that is read to its
    /// end. `progress` is as in
    /// [`Trace::read`].
    ///
    /// # Errors
    /// As [`Trace::read`].
    pub fn read_limited(
        text: impl Read + 'static,
        limit: usize,
        progress: impl FnMut(u64),
    ) -> Result<Self, TraceError> {
        let text = open::read(text).map_err(|error| TraceError::Read { line: 1, error })?;
        Self::from_text(text, limit, progress)
    }

    pub(super) fn from_text(
        mut text: impl BufRead,
        limit: usize,
        mut progress: impl FnMut(u64),
    ) -> Result<Self, TraceError> {
        let mut trace = Self::default();
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let line = trace.lines + 1;
            let read = text.by_ref().take(LONGEST).read_until(b'\n', &mut bytes);
            let length = read.map_err(|error| TraceError::Read { line, error })?;
            if length == 0 {
                break;
            }
            trace.lines = line;
            let ended = bytes.pop_if(|last| *last == b'\n').is_some();
            if !ended && length as u64 == LONGEST {
                return Err(TraceError::TooLong { line });
            }
            bytes.pop_if(|last| *last == b'\r');
            trace.add(line, limit, &String::from_utf8_lossy(&bytes))?;
            if !ended {
                return Err(TraceError::Cut { line });
            }
            if line % STRIDE == 0 {
                progress(line);
            }
        }
        if trace.all_events() == 0 {
            return Err(TraceError::Empty { lines: trace.lines });
        }
        Ok(trace)
    }

    /// Events, kept or only counted.
    pub(super) fn all_events(&self) -> u64 {
        self.events.len() as u64 + self.tables
    }

    fn add(&mut self, number: u64, limit: usize, text: &str) -> Result<(), TraceError> {
        let parsed = line::parse(text).map_err(|malformed| TraceError::Malformed {
            line: number,
            column: malformed.offset + 1,
            expected: malformed.expected,
            text: text.chars().take(SHOWN).collect(),
        })?;
        match parsed {
            Line::Event(Event::NewTable { liobn }) if !is_default(liobn) => {
                self.tables += 1;
                self.named.extend(bridge_with(liobn).map(|bridge| bridge.liobn));
            }
            Line::Event(_) if self.events.len() >= limit => return Err(TraceError::TooMany { line: number, limit }),
            Line::Event(event) => self.events.push((number, event)),
            Line::OtherIommu => self.other_iommu += 1,
            Line::Other => self.other += 1,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Trace, TraceError> {
        Trace::from_text(text.as_bytes(), Trace::MAX_EVENTS, |_| ())
    }

    const REMOVE: &str = "spapr_iommu_ddw_remove liobn=0x1\n";

    #[test]
    fn lines_that_are_only_counted_take_no_memory() {
        let table = "spapr_iommu_new_table liobn=0x80000101 table=0x1 fd=-1\n";
        let counted = ["booting\n", "spapr_iommu_pre_save x\n", table].concat().repeat(1000);
        let trace = read(&format!("{counted}{REMOVE}")).unwrap();
        assert_eq!((trace.other, trace.other_iommu, trace.tables, trace.all_events()), (1000, 1000, 1000, 1001));
        assert_eq!((trace.events.len(), trace.named), (1, BTreeSet::from([0x8000_0100])));
    }

    #[test]
    fn events_beyond_the_limit_are_an_error_that_names_it() {
        let read = |limit| Trace::from_text(format!("a\n{}", REMOVE.repeat(3)).as_bytes(), limit, |_| ());
        assert_eq!(read(3).unwrap().events.len(), 3);
        let error = read(2).unwrap_err();
        assert!(matches!(error, TraceError::TooMany { line: 4, limit: 2 }), "{error}");
        assert!(error.to_string().starts_with("line 4: more than 2 events: "), "{error}");
    }

    #[test]
    fn events_keep_the_numbers_of_their_lines_and_the_rest_is_counted() {
        let trace = read("booting\nspapr_iommu_ddw_remove liobn=0x1\r\nspapr_iommu_pre_save x\n").unwrap();
        assert_eq!(trace.events, [(2, Event::Remove { liobn: 1 })]);
        assert_eq!((trace.lines, trace.other_iommu, trace.other), (3, 1, 1));
    }

    #[test]
    fn a_malformed_line_is_an_error_with_its_number() {
        let error = read("booting\nspapr_iommu_ddw_remove liobn=\n").unwrap_err();
        let message = error.to_string();
        assert!(message.starts_with("line 2, column 30: expected a hexadecimal number: "), "{message}");
    }

    #[test]
    fn a_last_line_without_an_end_may_be_cut() {
        let error = read("spapr_iommu_ddw_remove liobn=0x8000").unwrap_err();
        assert!(matches!(error, TraceError::Cut { line: 1 }), "{error}");
    }

    #[test]
    fn a_file_without_events_is_none() {
        assert!(matches!(read("one\ntwo\n").unwrap_err(), TraceError::Empty { lines: 2 }));
        assert!(matches!(read("").unwrap_err(), TraceError::Empty { lines: 0 }));
    }

    #[test]
    fn a_line_without_end_does_not_fill_the_memory() {
        let long = "x".repeat(1 << 20);
        assert!(matches!(read(&long).unwrap_err(), TraceError::TooLong { line: 1 }));
        assert!(read(&format!("{}\nspapr_iommu_ddw_remove liobn=0x1\n", "x".repeat(4095))).is_ok());
    }
}
