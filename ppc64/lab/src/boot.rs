//! Runs a machine until it ends, or its time is over.

use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::console::Console;

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// QEMU ended by itself.
    Off,
    /// It was still running when its time was over.
    TimedOut,
    /// A signal asked this program to stop.
    Interrupted(i32),
}

enum Event {
    Console(Vec<u8>),
    Diagnostic(Vec<u8>),
    Closed,
    Signal(i32),
}

/// Starts the machine, feeds the console and waits for the end.
///
/// Call it on the main thread: QEMU ends with the thread that started it.
pub fn run<O: Write, E: Write, L: Write>(
    mut command: Command,
    timeout: Duration,
    console: &mut Console<O, E, L>,
) -> Result<End> {
    let (sender, events) = channel();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("wait for signals")?;
    let handle = signals.handle();
    let for_signals = sender.clone();
    thread::spawn(move || {
        for signal in signals.forever() {
            let _ = for_signals.send(Event::Signal(signal));
        }
    });

    let deadline = Instant::now() + timeout;
    let mut machine = Machine(
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start QEMU under setpriv of util-linux")?,
    );
    let stdout = machine.0.stdout.take().context("no console")?;
    let stderr = machine.0.stderr.take().context("no standard error")?;
    forward(stdout, sender.clone(), Event::Console);
    forward(stderr, sender, Event::Diagnostic);

    let mut open = 2;
    let end = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left) {
            Ok(Event::Console(bytes)) => console.take(&bytes),
            Ok(Event::Diagnostic(bytes)) => console.take_diagnostic(&bytes),
            Ok(Event::Closed) if open > 1 => open -= 1,
            Ok(Event::Closed) | Err(RecvTimeoutError::Disconnected) => break End::Off,
            Ok(Event::Signal(signal)) => break End::Interrupted(signal),
            Err(RecvTimeoutError::Timeout) => break End::TimedOut,
        }
    };
    handle.close();
    Ok(end)
}

/// A QEMU process that does not outlive this value.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // Fails only if it has already ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn forward(mut from: impl Read + Send + 'static, to: Sender<Event>, event: fn(Vec<u8>) -> Event) {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if to.send(event(buffer[..length].to_vec())).is_err() {
                return;
            }
        }
        let _ = to.send(Event::Closed);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run_shell(script: &str, timeout: Duration) -> (End, Vec<String>, Duration) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let mut console = Console::new(Vec::new(), Vec::new(), Vec::new());
        let start = Instant::now();
        let end = run(command, timeout, &mut console).unwrap();
        (end, console.finish().tail.into(), start.elapsed())
    }

    #[test]
    fn everything_printed_before_the_end_is_seen() {
        let (end, mut tail, _) = run_shell("echo one; echo two >&2", Duration::from_secs(60));
        tail.sort();
        assert_eq!((end, tail), (End::Off, vec!["one".into(), "two".into()]));
    }

    #[test]
    fn a_machine_that_hangs_is_killed() {
        let (end, tail, took) = run_shell("echo up; exec sleep 60", Duration::from_millis(500));
        assert_eq!((end, tail), (End::TimedOut, vec!["up".into()]));
        assert!(took < Duration::from_secs(30));
    }
}
