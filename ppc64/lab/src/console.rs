//! Takes the console of a running machine apart.

use std::collections::VecDeque;
use std::io::{ErrorKind, Result, Write};

use ppc64_init::finding::{is_fatal, is_fault};
use ppc64_init::protocol::{Channel, Decoded, Decoder, Report};

/// Console lines kept after a fault: registers and backtrace.
const CONTEXT: usize = 50;
/// Last console lines kept for a machine that hangs or dies.
const TAIL: usize = 30;

/// Passes on the commands' output, and collects what the verdict needs.
pub struct Console<O, E, L> {
    output: O,
    error: E,
    log: L,
    decoder: Decoder,
    noise: Vec<u8>,
    report: Vec<u8>,
    wanted: usize,
    seen: Seen,
}

/// The contents of a console.
#[derive(Debug, Default)]
pub struct Seen {
    /// Reports of the first process.
    pub reports: Vec<Report>,
    /// Lines of kernel faults, each with the lines that follow.
    pub faults: Vec<String>,
    /// The first line of an oops or panic.
    pub fatal: Option<String>,
    /// The last lines that firmware, kernel or QEMU printed.
    pub tail: VecDeque<String>,
    /// What of the commands' output or of the log could not be written first, and why.
    pub unwritten: Option<String>,
}

impl Seen {
    /// Remembers what was not written. A reader that went away has all it wanted.
    fn check(&mut self, what: &str, result: Result<()>) {
        match result {
            Err(error) if error.kind() != ErrorKind::BrokenPipe && self.unwritten.is_none() => {
                self.unwritten = Some(format!("{what}: {error}"));
            }
            _ => {}
        }
    }
}

impl<O: Write, E: Write, L: Write> Console<O, E, L> {
    /// Sends the commands' output and errors, and a log of everything, to these three.
    pub fn new(output: O, error: E, log: L) -> Console<O, E, L> {
        Console {
            output,
            error,
            log,
            decoder: Decoder::default(),
            noise: Vec::new(),
            report: Vec::new(),
            wanted: 0,
            seen: Seen::default(),
        }
    }

    /// Takes the next bytes of the console.
    pub fn take(&mut self, bytes: &[u8]) {
        let (mut output, mut error, mut log) = (Vec::new(), Vec::new(), Vec::new());
        for &byte in bytes {
            match self.decoder.push(byte) {
                Some(Decoded::Noise(byte)) => {
                    log.push(byte);
                    self.take_noise(byte);
                }
                Some(Decoded::Payload(Channel::Output, byte)) => {
                    log.push(byte);
                    output.push(byte);
                }
                Some(Decoded::Payload(Channel::Error, byte)) => {
                    log.push(byte);
                    error.push(byte);
                }
                Some(Decoded::Payload(Channel::Report, byte)) => {
                    log.push(byte);
                    self.take_report(byte);
                }
                None => {}
            }
        }
        // No failure ends the run: the verdict is still needed.
        self.seen.check("standard output", self.output.write_all(&output).and_then(|()| self.output.flush()));
        self.seen.check("standard error", self.error.write_all(&error).and_then(|()| self.error.flush()));
        self.seen.check("the log", self.log.write_all(&log));
    }

    /// Takes QEMU's own messages.
    pub fn take_diagnostic(&mut self, bytes: &[u8]) {
        self.seen.check("the log", self.log.write_all(bytes));
        for &byte in bytes {
            self.take_noise(byte);
        }
    }

    /// Ends the stream.
    pub fn finish(mut self) -> Seen {
        self.end_line();
        self.seen.check("the log", self.log.flush());
        self.seen
    }

    fn take_noise(&mut self, byte: u8) {
        match byte {
            b'\n' => self.end_line(),
            b'\r' => {}
            _ => self.noise.push(byte),
        }
    }

    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.noise).into_owned();
        self.noise.clear();
        if line.trim().is_empty() {
            return;
        }
        if is_fatal(&line) && self.seen.fatal.is_none() {
            self.seen.fatal = Some(line.clone());
        }
        if is_fault(&line) {
            self.wanted = CONTEXT + 1;
        }
        if self.wanted > 0 {
            self.wanted -= 1;
            self.seen.faults.push(line.clone());
        }
        if self.seen.tail.len() == TAIL {
            self.seen.tail.pop_front();
        }
        self.seen.tail.push_back(line);
    }

    fn take_report(&mut self, byte: u8) {
        if byte != b'\n' {
            self.report.push(byte);
            return;
        }
        let report = serde_json::from_slice(&self.report).unwrap_or_else(|error| {
            let text = String::from_utf8_lossy(&self.report);
            Report::Failed(format!("garbled report {text:?}: {error}"))
        });
        self.report.clear();
        if let Report::Ready(facts) = &report {
            for fact in facts {
                let _ = writeln!(self.error, "{fact}");
            }
        }
        self.seen.reports.push(report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ppc64_init::protocol::encode;

    fn play(stream: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>, Seen) {
        let (mut output, mut error, mut log) = (Vec::new(), Vec::new(), Vec::new());
        let mut console = Console::new(&mut output, &mut error, &mut log);
        for piece in stream.chunks(3) {
            console.take(piece);
        }
        let seen = console.finish();
        (output, error, log, seen)
    }

    fn report(report: &Report) -> Vec<u8> {
        let mut line = serde_json::to_vec(report).unwrap();
        line.push(b'\n');
        encode(Channel::Report, &line)
    }

    #[test]
    fn streams_go_where_they_belong() {
        let mut stream = b"skiboot\r\n".to_vec();
        stream.extend(encode(Channel::Output, b"out\r\n"));
        stream.extend(encode(Channel::Error, b"err\n"));
        stream.extend(b"kernel\r\n");
        stream.extend(report(&Report::Finished));
        let (output, error, log, seen) = play(&stream);
        assert_eq!(output, b"out\r\n");
        assert_eq!(error, b"err\n");
        assert!(log.starts_with(b"skiboot\r\nout\r\nerr\nkernel\r\n"));
        assert_eq!(seen.reports, [Report::Finished]);
        assert_eq!(seen.tail, ["skiboot", "kernel"]);
        assert!(seen.faults.is_empty() && seen.fatal.is_none());
    }

    /// Takes nothing.
    struct Full(ErrorKind);

    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_not_written_is_said_unless_its_reader_is_gone() {
        let unwritten = |output: ErrorKind, log: ErrorKind| {
            let mut console = Console::new(Full(output), Vec::new(), Full(log));
            console.take(&encode(Channel::Output, b"out\n"));
            console.take(&report(&Report::Finished));
            let seen = console.finish();
            assert_eq!(seen.reports, [Report::Finished], "the verdict is still known");
            seen.unwritten
        };
        let full = ErrorKind::StorageFull;
        assert!(unwritten(full, full).unwrap().starts_with("standard output: "));
        assert!(unwritten(ErrorKind::BrokenPipe, full).unwrap().starts_with("the log: "));
        assert_eq!(unwritten(ErrorKind::BrokenPipe, ErrorKind::BrokenPipe), None);
    }

    #[test]
    fn faults_are_kept_with_what_follows() {
        let mut stream = b"before\nWARNING: CPU: 0 at x.c:1\nNIP f\n".to_vec();
        stream.extend(b"Oops: Exception in kernel mode\nKernel panic - not syncing\n");
        let (.., seen) = play(&stream);
        assert_eq!(seen.faults.len(), 4);
        assert_eq!(seen.faults[0], "WARNING: CPU: 0 at x.c:1");
        let first = "Oops: Exception in kernel mode";
        assert_eq!(seen.fatal.as_deref(), Some(first));
    }

    #[test]
    fn a_fault_in_a_commands_output_is_the_commands_own() {
        let (.., seen) = play(&encode(Channel::Output, b"WARNING: hello\nOops\n"));
        assert!(seen.faults.is_empty() && seen.fatal.is_none());
    }

    #[test]
    fn a_last_line_without_end_counts() {
        let (.., seen) = play(b"Kernel panic - not syncing");
        assert!(seen.fatal.is_some());
    }

    #[test]
    fn a_garbled_report_is_a_failure() {
        let (.., seen) = play(&encode(Channel::Report, b"{\n"));
        assert!(matches!(&seen.reports[..], [Report::Failed(_)]));
    }
}
