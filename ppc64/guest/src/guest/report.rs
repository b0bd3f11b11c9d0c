//! What the guest reports to the monitor: lines of text, a line for each check, and the number of
//! checks that failed.

use super::hcall::{H_PUT_TERM_CHAR, hcall};
use core::fmt;
use core::fmt::Debug;
use ppc64_guest::H_PHASE;

#[derive(Default)]
pub(super) struct Report {
    pub failures: u64,
}

impl Report {
    /// Announces the next phase to the monitor.
    pub(super) fn phase(&self, phase: u64) {
        hcall(H_PHASE, [phase, 0, 0, 0]);
    }

    /// Checks that `found` is what was expected.
    pub(super) fn check<T: PartialEq + Debug>(&mut self, what: &str, found: T, expected: T) {
        if found == expected {
            say!("ok {what}");
        } else {
            say!("FAIL {what}: {found:x?}, expected {expected:x?}");
            self.failures += 1;
        }
    }
}

/// The terminal that every pseries guest has.
pub(super) struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.as_bytes().chunks(16) {
            let mut bytes = [0; 16];
            bytes[..piece.len()].copy_from_slice(piece);
            let bytes = u128::from_be_bytes(bytes);
            hcall(H_PUT_TERM_CHAR, [0, piece.len() as u64, (bytes >> 64) as u64, bytes as u64]);
        }
        Ok(())
    }
}

/// Prints a line.
macro_rules! say {
    ($($text:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::guest::report::Console, $($text)*);
    }};
}
pub(super) use say;
