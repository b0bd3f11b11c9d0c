//! Standard output, with the first error kept until the end.

use std::io::{self, ErrorKind, Write};

/// Writes lines until one fails.
#[derive(Debug)]
pub(in crate::command) struct Sink<W = io::Stdout> {
    inner: W,
    failed: Option<io::Error>,
}

impl Sink {
    /// The process's standard output.
    pub(in crate::command) fn stdout() -> Self {
        Self::new(io::stdout())
    }
}

impl<W: Write> Sink<W> {
    fn new(inner: W) -> Self {
        Self { inner, failed: None }
    }

    /// Writes a line. After an error it writes nothing: a gap in the output would go unnoticed.
    pub(in crate::command) fn line(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = writeln!(self.inner, "{text}").err();
        }
    }

    /// Writes a document as JSON, on one line.
    pub(in crate::command) fn json(&mut self, document: &impl serde::Serialize) {
        if self.failed.is_none() {
            let written = serde_json::to_writer(&mut self.inner, document).map_err(io::Error::from);
            self.failed = written.and_then(|()| writeln!(self.inner)).err();
        }
    }

    /// Flushes, and reports the first error. A reader that closed its pipe had all it wanted: that
    /// is no error.
    pub(in crate::command) fn finish(mut self) -> io::Result<()> {
        match self.failed.map_or_else(|| self.inner.flush(), Err) {
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
            result => result,
        }
    }
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
