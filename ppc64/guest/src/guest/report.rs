//! Checks: a line for each, and the number of those that failed.

use super::console::say;
use super::hcall::hcall;
use core::fmt::Debug;
use ppc64_guest::H_PHASE;

#[derive(Default)]
pub(super) struct Report {
    pub failures: u64,
}

impl Report {
    /// Tells the monitor what follows.
    pub(super) fn phase(&self, phase: u64) {
        hcall(H_PHASE, [phase, 0, 0, 0]);
    }

    /// Whether `found` is what was expected.
    pub(super) fn check<T: PartialEq + Debug>(&mut self, what: &str, found: T, expected: T) {
        if found == expected {
            say!("ok {what}");
        } else {
            say!("FAIL {what}: {found:x?}, expected {expected:x?}");
            self.failures += 1;
        }
    }
}
