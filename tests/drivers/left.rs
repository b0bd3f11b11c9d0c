//! What is left behind: locked memory, open files, free memory.

use crate::fixture::Fixture;
use libtest_mimic::Failed;
use ppc64_init::memory::settled_free_kib;
use std::fs;

/// What free memory may differ by, KiB: the least that is lost by a leak in each round would be a
/// page in each, 64 KiB in most.
const NOISE_KIB: u64 = 1024;

#[derive(Debug, PartialEq)]
pub(crate) struct Left {
    locked: u64,
    files: usize,
    /// Of the machine; a model has none.
    free_kib: Option<u64>,
}

impl Left {
    pub(crate) fn now(fixture: &Fixture) -> Result<Self, Failed> {
        let free_kib = match fixture.model {
            Some(_) => None,
            None => Some(settled_free_kib()?),
        };
        let files = fs::read_dir("/proc/self/fd")?.count();
        Ok(Self { locked: fixture.host.memlock()?.locked, files, free_kib })
    }

    /// Fails unless all is as it was.
    pub(crate) fn same_as(&self, before: &Self) -> Result<(), Failed> {
        let lost = before.free_kib.unwrap_or(0).saturating_sub(self.free_kib.unwrap_or(0));
        if (self.locked, self.files) == (before.locked, before.files) && lost <= NOISE_KIB {
            return Ok(());
        }
        Err(format!("{self:?} is left where {before:?} was").into())
    }
}
