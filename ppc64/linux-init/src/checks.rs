//! Checks, each a line on the console.

use anyhow::Result;
use ppc64_linux_init::{FAILED, PASSED};

/// Checks so far.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    failed: u32,
}

impl Checks {
    /// Makes a check and prints its result.
    pub(crate) fn run(&mut self, name: &str, check: impl FnOnce() -> Result<()>) {
        match check() {
            Ok(()) => println!("{PASSED}{name}"),
            Err(error) => {
                self.failed += 1;
                println!("{FAILED}{name}: {error:#}");
            }
        }
    }

    /// Returns how many failed.
    pub(crate) fn failed(&self) -> u32 {
        self.failed
    }
}
