//! What the subcommands print with: standard output, progress and tables.

use super::terminal::{HEADING, paint, width, wrapped};
use crate::scenario::Tables;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets::NOTHING};
use indicatif::{ProgressBar, ProgressStyle};
use spapr_iommu::addr::Bytes;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::Duration;

/// Writes lines until one fails.
#[derive(Debug)]
pub(super) struct Sink<W = io::Stdout> {
    inner: W,
    failed: Option<io::Error>,
}

impl Sink {
    /// The process's standard output.
    pub(super) fn stdout() -> Self {
        Self::new(io::stdout())
    }
}

impl<W: Write> Sink<W> {
    fn new(inner: W) -> Self {
        Self { inner, failed: None }
    }

    /// Writes a line. After an error it writes nothing: a gap in the output would go unnoticed.
    pub(super) fn line(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = writeln!(self.inner, "{text}").err();
        }
    }

    /// Writes a line of words, which a terminal shows with later lines indented by `indent`.
    pub(super) fn words(&mut self, text: &str, indent: usize) {
        self.line(&wrapped(text, indent));
    }

    /// Writes a document as JSON, on one line.
    pub(super) fn json(&mut self, document: &impl serde::Serialize) {
        if self.failed.is_none() {
            let written = serde_json::to_writer(&mut self.inner, document).map_err(io::Error::from);
            self.failed = written.and_then(|()| writeln!(self.inner)).err();
        }
    }

    /// Flushes, and returns whether the reader is still there.
    pub(super) fn is_read(&mut self) -> bool {
        self.failed = self.failed.take().or_else(|| self.inner.flush().err());
        self.failed.as_ref().is_none_or(|error| error.kind() != ErrorKind::BrokenPipe)
    }

    /// Flushes, and reports the first error. A closed pipe is not an error: its reader has all it
    /// wanted.
    pub(super) fn finish(mut self) -> io::Result<()> {
        match self.failed.map_or_else(|| self.inner.flush(), Err) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
}

/// Interval at which the bar moves.
pub(super) const TICK: Duration = Duration::from_millis(120);

/// A spinner, and a bar when the amount of work is known.
pub(super) struct Watch(ProgressBar);

impl Watch {
    pub(super) fn new() -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(TICK);
        Self(bar)
    }

    pub(super) fn message(&self, message: String) {
        self.0.set_message(message);
    }

    pub(super) fn progress(&self, message: &'static str, done: u64, all: u64) {
        if self.0.length() != Some(all)
            && let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{wide_bar}] {pos}/{len}")
        {
            self.0.set_length(all);
            self.0.set_style(style);
            self.0.set_message(message);
        }
        self.0.set_position(done);
    }

    pub(super) fn end(&self) {
        self.0.finish_and_clear();
    }
}

pub(super) fn draw(tables: &Tables) -> String {
    let locked = tables.locked;
    let parts = [
        section(
            "Registered memory",
            &["memory", "size>", "page>", "leases>", "mapped>", "containers>"],
            tables.registered.iter().map(|row| {
                let sizes = [row.size, row.max_iommu_page].map(|bytes| Bytes(bytes).to_string());
                let [size, max_iommu_page] = sizes;
                let mapped = Bytes(row.mapped).to_string();
                vec![
                    row.memory.clone(),
                    size,
                    max_iommu_page,
                    row.leases.to_string(),
                    mapped,
                    row.containers.to_string(),
                ]
            }),
        ),
        section(
            "Leases",
            &["lease", "memory", "size>"],
            tables.leases.iter().map(|row| {
                vec![row.lease.clone().unwrap_or("-".into()), row.memory.clone(), Bytes(row.size).to_string()]
            }),
        ),
        section(
            "Groups",
            &["space", "group>", "container>"],
            tables.groups.iter().map(|row| vec![row.space.clone(), row.group.to_string(), row.container.to_string()]),
        ),
        section(
            "Windows",
            &["space", "window", "start>", "size>", "page>", "levels>", "origin", "mapped>"],
            tables.windows.iter().map(|row| {
                vec![
                    row.space.clone(),
                    row.name.clone().unwrap_or("-".into()),
                    row.start.clone(),
                    Bytes(row.size).to_string(),
                    Bytes(row.page).to_string(),
                    row.levels.map_or("-".into(), |levels| levels.to_string()),
                    if row.levels.is_none() { format!("{}, pending", row.origin) } else { row.origin.clone() },
                    Bytes(row.mapped).to_string(),
                ]
            }),
        ),
        section(
            "Maps",
            &["space", "IOVA>", "size>", "memory", "access"],
            tables.maps.iter().map(|row| {
                let size = Bytes(row.size).to_string();
                vec![row.space.clone(), row.iova.clone(), size, row.memory.clone(), row.access.clone()]
            }),
        ),
        format!(
            "\nLocked memory: {} ({} registered, {} tables)",
            Bytes(locked.total),
            Bytes(locked.registered),
            Bytes(locked.tables)
        ),
    ];
    parts.concat()
}

/// Formats a table under its title; a heading that ends with `>` aligns its column to the right.
pub(crate) fn section(title: &str, headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    if let Some(width) = width() {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(headings.iter().map(|heading| heading.trim_end_matches('>')));
    table.add_rows(rows);
    if table.is_empty() {
        return format!("\n{}: none\n", paint(HEADING, title));
    }
    for (column, heading) in table.column_iter_mut().zip(headings) {
        if heading.ends_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let drawn = table.to_string();
    let lines: Vec<_> = drawn.lines().map(str::trim_end).collect();
    format!("\n{}\n{}\n", paint(HEADING, title), lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `room` bytes, then fails.
    struct Full {
        room: usize,
        kind: ErrorKind,
    }

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.room);
            self.room -= taken;
            if taken == 0 { Err(self.kind.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            if self.room == 0 { Err(self.kind.into()) } else { Ok(()) }
        }
    }

    #[test]
    fn the_first_error_is_kept_and_nothing_is_written_after_it() {
        let mut written = Vec::new();
        let mut sink = Sink::new(&mut written);
        sink.line("one");
        sink.json(&[1, 2]);
        assert!(sink.finish().is_ok());
        assert_eq!(written, b"one\n[1,2]\n");

        let mut sink = Sink::new(Full { room: 2, kind: ErrorKind::StorageFull });
        sink.line("one");
        sink.inner.room = 100;
        sink.line("two");
        sink.json(&3);
        assert_eq!(sink.inner.room, 100, "nothing more was written");
        assert_eq!(sink.finish().unwrap_err().kind(), ErrorKind::StorageFull);

        let mut sink = Sink::new(Full { room: 2, kind: ErrorKind::StorageFull });
        sink.json(&"longer");
        assert_eq!(sink.finish().unwrap_err().kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn what_fails_at_the_end_is_an_error_and_a_closed_pipe_is_none() {
        let fails = |kind| Sink::new(Full { room: 0, kind }).finish();
        assert_eq!(fails(ErrorKind::StorageFull).unwrap_err().kind(), ErrorKind::StorageFull);
        assert!(fails(ErrorKind::BrokenPipe).is_ok());
    }
}
