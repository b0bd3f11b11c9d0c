//! Resources held by a process, to check that nothing is left after a driver has closed its device.

use ppc64_init::memory::settled_free_kib;
use spapr_iommu::addr::Bytes;
use spapr_iommu::host::Host;
use std::error::Error;
use std::fs;

/// KiB of memory that may be missing afterwards: pages that the kernel keeps for slabs, some per
/// processor.
const TOLERANCE: u64 = 1024;

/// Returns the number of open files. It is 0 in a test, since other tests in the process open files
/// too.
pub(crate) fn open_files() -> Result<usize, Box<dyn Error>> {
    Ok(if cfg!(test) { 0 } else { fs::read_dir("/proc/self/fd")?.count() })
}

/// Resources in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) locked: u64,
    pub(crate) files: usize,
    /// Free memory of the machine; a model has none of its own.
    free_kib: u64,
}

impl Held {
    pub(crate) fn now(host: &dyn Host, is_model: bool) -> Result<Self, Box<dyn Error>> {
        let files = open_files()?;
        let free_kib = if is_model { 0 } else { settled_free_kib()? };
        Ok(Self { locked: host.memlock()?.locked, files, free_kib })
    }

    /// Returns the memory that is missing since `before`, KiB.
    pub(crate) fn missing_kib(&self, before: &Self) -> u64 {
        before.free_kib.saturating_sub(self.free_kib)
    }

    /// Prints what is in use, and what was in use before.
    pub(crate) fn print(&self, before: &Self) {
        println!(
            "locked memory {} before, {} after; open files {}, {}; free memory {} KiB, {} KiB",
            Bytes(before.locked),
            Bytes(self.locked),
            before.files,
            self.files,
            before.free_kib,
            self.free_kib
        );
    }

    /// Checks that nothing more is in use than before.
    pub(crate) fn check(&self, before: &Self) -> Result<(), Box<dyn Error>> {
        if (before.locked, before.files) != (self.locked, self.files) || self.missing_kib(before) > TOLERANCE {
            return Err("something was not given back".into());
        }
        Ok(())
    }
}
