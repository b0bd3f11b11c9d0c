//! The kernel that a guest restarts itself with: the one it was booted with, in an archive that
//! Linux unpacks after the initial file system.

use super::options::Options;
use cpio::newc::{self, Builder};
use ppc64_linux_init::{NEXT_INITRD, NEXT_KERNEL, Restart};
use std::io::{self, Write};

/// A file that its owner may read.
const FILE: u32 = 0o100_400;

/// What an archive after another one is aligned to.
const ALIGN: usize = 4;

/// Appends the archive to an initial file system, which it contains as well, and programs that load
/// the kernel.
pub(crate) fn append(initrd: &mut Vec<u8>, kernel: &[u8], programs: &[u8]) -> io::Result<()> {
    let files = [(NEXT_KERNEL, kernel), (NEXT_INITRD, &initrd.clone()[..])];
    initrd.extend(programs);
    initrd.resize(initrd.len().next_multiple_of(ALIGN), 0);
    for (path, content) in files {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let mut file = Builder::new(path.trim_start_matches('/')).mode(FILE).write(&mut *initrd, size);
        file.write_all(content)?;
        file.finish()?;
    }
    newc::trailer(initrd).map(drop)
}

/// MiB of RAM that are kept for a crash kernel, at the end.
const CRASH: u64 = 256;

/// Returns what keeps RAM for a crash kernel, if the guest is to have one.
pub(crate) fn crash_kernel(options: &Options) -> String {
    match options.restart {
        Restart::Crash => format!("crashkernel={CRASH}M@{}M", options.memory.saturating_sub(CRASH)),
        _ => String::new(),
    }
}
