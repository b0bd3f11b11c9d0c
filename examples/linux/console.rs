//! The guest's console: printed line by line, and searched for the checks that the guest's first
//! process reports.

use super::snapshot::Snapshot;
use parking_lot::Mutex;
use ppc64_linux_init::{FAILED, IDLE, PASSED, READY, STARTED, STATUS, Wrote};
use std::io::Write;

/// Prefix of each line of the guest that is not a check.
const PREFIX: &str = "guest: ";

/// The console.
#[derive(Default)]
pub(crate) struct Console(Mutex<Said>);

/// The guest's output.
#[derive(Clone, Debug, Default)]
pub(crate) struct Said {
    line: Vec<u8>,
    /// Number of kernels that reached user space.
    pub(crate) kernels: u32,
    /// Number of checks that passed.
    pub(crate) passed: u32,
    /// Number of checks that failed.
    pub(crate) failed: u32,
    /// The last exit status.
    pub(crate) status: Option<u8>,
    /// Whether its last line said that it is ready to be saved.
    ready: bool,
    /// What its devices could reach, each time the guest reported that they have no driver.
    pub(crate) idle: Vec<Snapshot>,
    /// What the guest wrote to the emulated disk.
    pub(crate) wrote: Vec<Wrote>,
}

impl Console {
    /// Takes the guest's output. Returns whether it says that the guest is ready to be saved. Calls
    /// `snapshot` when it says that the devices have no driver.
    pub(crate) fn put(&self, text: &[u8], snapshot: impl Fn() -> Snapshot) -> bool {
        let said = &mut *self.0.lock();
        for &byte in text {
            match byte {
                b'\n' => {
                    if said.line.starts_with(IDLE.as_bytes()) {
                        said.idle.push(snapshot());
                    }
                    said.end_line();
                }
                b'\r' => {}
                byte => said.line.push(byte),
            }
        }
        std::mem::take(&mut said.ready)
    }

    /// Returns the guest's output so far.
    pub(crate) fn said(&self) -> Said {
        let said = &mut *self.0.lock();
        if !said.line.is_empty() {
            said.end_line();
        }
        said.clone()
    }
}

impl Said {
    fn end_line(&mut self) {
        let line = String::from_utf8_lossy(&self.line).into_owned();
        self.line.clear();
        let check = line.starts_with(PASSED) || line.starts_with(FAILED);
        self.passed += u32::from(line.starts_with(PASSED));
        self.failed += u32::from(line.starts_with(FAILED));
        self.kernels += u32::from(line.contains(STARTED));
        if let Some(status) = line.strip_prefix(STATUS) {
            self.status = status.trim().parse().ok();
        }
        self.ready |= line == READY;
        if let Ok(wrote) = line.parse::<Wrote>() {
            // A later boot may overwrite the part of an earlier one.
            self.wrote.retain(|earlier| earlier.start != wrote.start);
            self.wrote.push(wrote);
        }
        let prefix = if check { "" } else { PREFIX };
        // The reader may have gone; the guest continues.
        let _ = writeln!(std::io::stdout(), "{prefix}{line}");
    }
}
