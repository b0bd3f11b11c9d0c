//! Reads a trace: text in, events out, and the number of its other lines.
//!
//! The formats are those of `hw/ppc/trace-events` in QEMU. QEMU prints addresses and LIOBNs in
//! hexadecimal, with `0x` (old versions without it), and counts and return codes in decimal, and
//! may put `PID@SECONDS.MICROSECONDS:` in front.

use super::error::{MAX_LINE, TraceError};
use super::liobns::{bridge_by_default, bridge_with};
use super::open;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::Path;
use winnow::ascii::{dec_int, dec_uint, digit1, hex_uint};
use winnow::combinator::{alt, eof, opt, preceded, terminated};
use winnow::error::{ContextError, StrContext, StrContextValue};
use winnow::token::{rest, take_till, take_while};
use winnow::{ModalResult, Parser};

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
    /// Events that show nothing except that their bridge exists: tables that are not of a default
    /// window.
    pub(super) tables: u64,
    /// LIOBNs of the default windows of the bridges that those named.
    pub(super) named: BTreeSet<u64>,
}

impl Trace {
    /// Number of events that are kept in memory by default: some 150 bytes each while they are
    /// replayed.
    pub const MAX_EVENTS: usize = 4 << 20;
}

impl Trace {
    /// Reads the trace at `path`, plain or .xz, of at most [`Trace::MAX_EVENTS`]. `progress`
    /// occasionally receives the number of lines read.
    ///
    /// # Errors
    /// [`TraceError`] for a file that cannot be read, a malformed `spapr_iommu_*` line, or a file
    /// with none or too many.
    pub fn read(path: &Path, progress: impl FnMut(u64)) -> Result<Self, TraceError> {
        Self::read_limited(File::open(path).map_err(TraceError::Open)?, Self::MAX_EVENTS, progress)
    }

    /// Reads a trace, plain or .xz, of at most `limit` events, from anything that is read to its
    /// end. `progress` is as in [`Trace::read`].
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
            let read = text.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes);
            let length = read.map_err(|error| TraceError::Read { line, error })?;
            if length == 0 {
                break;
            }
            trace.lines = line;
            let ended = bytes.pop_if(|last| *last == b'\n').is_some();
            if !ended && length as u64 == MAX_LINE {
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
        let parsed = parse(text).map_err(|malformed| TraceError::Malformed {
            line: number,
            column: malformed.offset + 1,
            expected: malformed.expected,
            text: text.chars().take(SHOWN).collect(),
        })?;
        match parsed {
            Line::Event(Event::NewTable { liobn }) if bridge_by_default(liobn).is_none() => {
                self.tables += 1;
                self.named.extend(bridge_with(liobn).map(|bridge| u64::from(bridge.liobn)));
            }
            Line::Event(_) if self.events.len() >= limit => return Err(TraceError::TooMany { line: number, limit }),
            Line::Event(event) => self.events.push((number, event)),
            Line::OtherIommu => self.other_iommu += 1,
            Line::Other => self.other += 1,
        }
        Ok(())
    }
}

/// Prefix of the trace points read here.
const PREFIX: &str = "spapr_iommu_";

/// The kind of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// A trace point that is replayed.
    Event(Event),
    /// Another of the `spapr_iommu_*` trace points: virtual I/O (`_put`, without `_pci`),
    /// migration, later additions.
    OtherIommu,
    /// Other output of QEMU.
    Other,
}

/// A trace point that is replayed, with its values as QEMU prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A TCE table was created: at a reset of the machine, or for a window about to be created.
    NewTable { liobn: u64 },
    /// H_PUT_TCE. The IOBA is rounded down to the table's page.
    Put { liobn: u64, ioba: u64, tce: u64, ret: i64 },
    /// H_GET_TCE. The IOBA is rounded down to the table's page.
    Get { liobn: u64, ioba: u64, tce: u64, ret: i64 },
    /// H_STUFF_TCE. QEMU prints the IOBA it stopped at: after the last page, or the one it failed
    /// for.
    Stuff { liobn: u64, stopped: u64, tce: u64, pages: u64, ret: i64 },
    /// H_PUT_TCE_INDIRECT. `last` and `tce` are the index and the value of the last entry written;
    /// for a call that failed, the index before the entry it failed for, or 0, and that entry's
    /// value.
    Indirect { liobn: u64, ioba: u64, list: u64, last: u64, tce: u64, ret: i64 },
    /// A device's address was translated. `offset` counts from the window's start; `mask` is cut to
    /// 32 bits.
    Translate { liobn: u64, offset: u64, target: u64, permission: u32, mask: u32 },
    /// ibm,query-pe-dma-window.
    Query { buid: u64, address: u32, windows: u32, largest: u64, pages: u32 },
    /// ibm,create-pe-dma-window. `page` and `size` are bytes, powers of two.
    Create { buid: u64, address: u32, page: u64, size: u64, start: u64, liobn: u64 },
    /// ibm,remove-pe-dma-window.
    Remove { liobn: u64 },
    /// ibm,reset-pe-dma-window.
    Reset { buid: u64, address: u32 },
}

impl Event {
    /// Returns the LIOBN it names, if it names one.
    pub(super) fn liobn(&self) -> Option<u64> {
        match *self {
            Self::NewTable { liobn }
            | Self::Put { liobn, .. }
            | Self::Get { liobn, .. }
            | Self::Stuff { liobn, .. }
            | Self::Indirect { liobn, .. }
            | Self::Translate { liobn, .. }
            | Self::Create { liobn, .. }
            | Self::Remove { liobn } => Some(liobn),
            Self::Query { .. } | Self::Reset { .. } => None,
        }
    }
}

/// Where and why a line is malformed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Bytes of the line before the mistake.
    pub(super) offset: usize,
    /// What was expected there.
    pub(super) expected: String,
}

/// Parses a line without its line end.
pub(super) fn parse(text: &str) -> Result<Line, Malformed> {
    line.parse(text).map_err(|error| {
        let expected: Vec<_> = error
            .inner()
            .context()
            .filter_map(|context| match context {
                StrContext::Expected(value) => Some(value.to_string()),
                _ => None,
            })
            .collect();
        let expected = if expected.is_empty() { "something else".to_owned() } else { expected.join(" or ") };
        Malformed { offset: error.offset(), expected }
    })
}

fn line(input: &mut &str) -> ModalResult<Line> {
    opt(log_prefix).parse_next(input)?;
    if opt(PREFIX).parse_next(input)?.is_none() {
        return rest.value(Line::Other).parse_next(input);
    }
    let name = take_while(1.., |c: char| c.is_ascii_alphanumeric() || c == '_').parse_next(input)?;
    let event = match name {
        "new_table" => new_table(input)?,
        "pci_put" => put(input)?,
        "pci_get" => get(input)?,
        "pci_stuff" => stuff(input)?,
        "pci_indirect" => indirect(input)?,
        "xlate" => translate(input)?,
        "ddw_query" => query(input)?,
        "ddw_create" => create(input)?,
        "ddw_remove" => hex(" liobn=").map(|liobn| Event::Remove { liobn }).parse_next(input)?,
        "ddw_reset" => {
            let (buid, address) = (hex(" buid="), hex32(" addr=")).parse_next(input)?;
            Event::Reset { buid, address }
        }
        _ => return rest.value(Line::OtherIommu).parse_next(input),
    };
    eof.context(expected("the end of the line")).parse_next(input)?;
    Ok(Line::Event(event))
}

/// Parses `1234@1700000000.123456:`, which QEMU's `log` backend prints with `-msg timestamp=on`.
fn log_prefix(input: &mut &str) -> ModalResult<()> {
    (digit1, '@', digit1, '.', digit1, ':').void().parse_next(input)
}

fn new_table(input: &mut &str) -> ModalResult<Event> {
    let table = preceded(word(" table="), take_till(1.., ' ').context(expected("a pointer")));
    let (liobn, _, _) = (hex(" liobn="), table, int(" fd=")).parse_next(input)?;
    Ok(Event::NewTable { liobn })
}

fn put(input: &mut &str) -> ModalResult<Event> {
    let (liobn, ioba, tce, ret) = (hex(" liobn="), hex(" ioba="), hex(" tce="), int(" ret=")).parse_next(input)?;
    Ok(Event::Put { liobn, ioba, tce, ret })
}

fn get(input: &mut &str) -> ModalResult<Event> {
    let (liobn, ioba, ret, tce) = (hex(" liobn="), hex(" ioba="), int(" ret="), hex(" tce=")).parse_next(input)?;
    Ok(Event::Get { liobn, ioba, tce, ret })
}

fn stuff(input: &mut &str) -> ModalResult<Event> {
    let (liobn, stopped) = (hex(" liobn="), hex(" ioba=")).parse_next(input)?;
    let (tce, pages, ret) = (hex(" tcevalue="), uint(" npages="), int(" ret=")).parse_next(input)?;
    Ok(Event::Stuff { liobn, stopped, tce, pages, ret })
}

fn indirect(input: &mut &str) -> ModalResult<Event> {
    let (liobn, ioba, list) = (hex(" liobn="), hex(" ioba="), hex(" tcelist=")).parse_next(input)?;
    let (last, tce, ret) = (hex(" iobaN="), hex(" tceN="), int(" ret=")).parse_next(input)?;
    Ok(Event::Indirect { liobn, ioba, list, last, tce, ret })
}

fn translate(input: &mut &str) -> ModalResult<Event> {
    let (liobn, offset, target) = (hex(" liobn="), hex(" "), hex(" -> ")).parse_next(input)?;
    let permission = preceded(word(" perm="), dec_uint.context(expected("a number")));
    let (permission, mask) = (permission, hex32(" mask=")).parse_next(input)?;
    Ok(Event::Translate { liobn, offset, target, permission, mask })
}

fn query(input: &mut &str) -> ModalResult<Event> {
    let windows = terminated(dec_uint.context(expected("a number")), word(" windows available"));
    let (buid, address, windows) = (hex(" buid="), hex32(" addr="), preceded(word(", "), windows)).parse_next(input)?;
    let (largest, pages) = (hex(", max window size="), hex32(", mask=")).parse_next(input)?;
    Ok(Event::Query { buid, address, windows, largest, pages })
}

fn create(input: &mut &str) -> ModalResult<Event> {
    let (buid, address) = (hex(" buid="), hex32(" addr=")).parse_next(input)?;
    let (page, size) = (hex(", page size="), hex(", requested=")).parse_next(input)?;
    let (start, liobn) = (hex(", start addr="), hex(", liobn=")).parse_next(input)?;
    Ok(Event::Create { buid, address, page, size, start, liobn })
}

fn expected(what: &'static str) -> StrContext {
    StrContext::Expected(StrContextValue::Description(what))
}

/// Parses exactly these characters.
fn word<'i>(text: &'static str) -> impl FnMut(&mut &'i str) -> ModalResult<()> {
    move |input| text.void().context(StrContext::Expected(StrContextValue::StringLiteral(text))).parse_next(input)
}

/// Parses a hexadecimal number after these characters.
fn hex<'i>(before: &'static str) -> impl Parser<&'i str, u64, winnow::error::ErrMode<ContextError>> {
    preceded(word(before), alt((preceded("0x", hex_uint), hex_uint)).context(expected("a hexadecimal number")))
}

fn hex32<'i>(before: &'static str) -> impl Parser<&'i str, u32, winnow::error::ErrMode<ContextError>> {
    preceded(word(before), alt((preceded("0x", hex_uint), hex_uint)).context(expected("a hexadecimal number")))
}

/// Parses a decimal number after these characters, with or without a sign.
fn int<'i>(before: &'static str) -> impl Parser<&'i str, i64, winnow::error::ErrMode<ContextError>> {
    preceded(word(before), dec_int.context(expected("a number")))
}

fn uint<'i>(before: &'static str) -> impl Parser<&'i str, u64, winnow::error::ErrMode<ContextError>> {
    preceded(word(before), dec_uint.context(expected("a number")))
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

    fn event(text: &str) -> Event {
        match parse(text) {
            Ok(Line::Event(event)) => event,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn every_trace_point_is_read_as_qemu_prints_it() {
        assert_eq!(
            event("spapr_iommu_new_table liobn=0x80000000 table=0x555c1b3f4c00 fd=-1"),
            Event::NewTable { liobn: 0x8000_0000 }
        );
        assert_eq!(
            event("spapr_iommu_pci_put liobn=0x80000000 ioba=0xc000000 tce=0x4602003 ret=0"),
            Event::Put { liobn: 0x8000_0000, ioba: 0xc00_0000, tce: 0x460_2003, ret: 0 }
        );
        assert_eq!(
            event("spapr_iommu_pci_get liobn=0x80000000 ioba=0x1000 ret=-4 tce=0x0"),
            Event::Get { liobn: 0x8000_0000, ioba: 0x1000, tce: 0, ret: -4 }
        );
        assert_eq!(
            event("spapr_iommu_pci_stuff liobn=0x80000000 ioba=0x200000 tcevalue=0x0 npages=512 ret=0"),
            Event::Stuff { liobn: 0x8000_0000, stopped: 0x20_0000, tce: 0, pages: 512, ret: 0 }
        );
        assert_eq!(
            event(
                "spapr_iommu_pci_indirect liobn=0x80000001 ioba=0x800000000000000 tcelist=0x5140000 iobaN=0x1f \
                 tceN=0x1f000003 ret=0"
            ),
            Event::Indirect {
                liobn: 0x8000_0001,
                ioba: 1 << 59,
                list: 0x514_0000,
                last: 0x1f,
                tce: 0x1f00_0003,
                ret: 0
            }
        );
        assert_eq!(
            event("spapr_iommu_xlate liobn=0x80000001 0x4b52000 -> 0x4000000 perm=3 mask=0xffffff"),
            Event::Translate {
                liobn: 0x8000_0001,
                offset: 0x4b5_2000,
                target: 0x400_0000,
                permission: 3,
                mask: 0xff_ffff
            }
        );
        assert_eq!(
            event(
                "spapr_iommu_ddw_query buid=0x800000020000000 addr=0x0, 1 windows available, max window \
                 size=0x80000000, mask=0x107"
            ),
            Event::Query { buid: 0x800_0000_2000_0000, address: 0, windows: 1, largest: 0x8000_0000, pages: 0x107 }
        );
        assert_eq!(
            event(
                "spapr_iommu_ddw_create buid=0x800000020000000 addr=0x0, page size=0x10000, requested=0x100000000, \
                 start addr=0x800000000000000, liobn=0x80000001"
            ),
            Event::Create {
                buid: 0x800_0000_2000_0000,
                address: 0,
                page: 0x1_0000,
                size: 1 << 32,
                start: 1 << 59,
                liobn: 0x8000_0001
            }
        );
        assert_eq!(event("spapr_iommu_ddw_remove liobn=0x80000001"), Event::Remove { liobn: 0x8000_0001 });
        assert_eq!(
            event("spapr_iommu_ddw_reset buid=0x800000020000000 addr=0x800"),
            Event::Reset { buid: 0x800_0000_2000_0000, address: 0x800 }
        );
    }

    #[test]
    fn a_time_stamp_and_numbers_without_0x_are_read_too() {
        assert_eq!(
            event("4711@1700000000.123456:spapr_iommu_ddw_remove liobn=80000001"),
            Event::Remove { liobn: 0x8000_0001 }
        );
    }

    #[test]
    fn other_lines_are_told_apart() {
        assert_eq!(parse("spapr_iommu_put liobn=0x71000003 ioba=0x0 tce=0x1003 ret=0"), Ok(Line::OtherIommu));
        assert_eq!(parse("4711@1.2:spapr_pci_msi_write @0x1<=0x2 IRQ 3"), Ok(Line::Other));
        assert_eq!(parse("qemu-system-ppc64: warning: nothing"), Ok(Line::Other));
        assert_eq!(parse(""), Ok(Line::Other));
    }

    #[test]
    fn a_cut_line_says_where_and_what_is_missing() {
        let whole = "spapr_iommu_pci_put liobn=0x80000000 ioba=0xc000000 tce=0x4602003 ret=-4";
        let cut = |length: usize| parse(&whole[..length]).unwrap_err();
        assert_eq!(cut(20), Malformed { offset: 19, expected: "` liobn=`".into() });
        assert_eq!(cut(26), Malformed { offset: 26, expected: "a hexadecimal number".into() });
        assert_eq!(cut(whole.len() - 1), Malformed { offset: whole.len() - 2, expected: "a number".into() });
        assert_eq!(parse(&format!("{whole} ")).unwrap_err().expected, "the end of the line");
    }

    #[test]
    fn numbers_that_do_not_fit_are_no_numbers() {
        assert!(parse("spapr_iommu_ddw_remove liobn=0x10000000000000001").is_err());
        assert!(parse("spapr_iommu_ddw_remove liobn=0xfffffffffffffffff").is_err());
        assert!(parse("spapr_iommu_ddw_remove liobn=-1").is_err());
        assert!(parse("spapr_iommu_ddw_reset buid=0x0 addr=0x100000000").is_err());
    }
}
