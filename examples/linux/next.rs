//! The kernel with which a guest restarts itself: the one it was booted with, in an archive that
//! Linux unpacks after the initial file system.

use super::options::Options;
use super::options::read;
use cpio::newc::{self, Builder};
use ppc64_linux_init::{NEXT_INITRD, NEXT_KERNEL, Restart};
use std::error::Error;
use std::io::{self, Write};

/// A file that its owner may read.
const FILE: u32 = 0o100_400;

/// Alignment of an archive that follows another one.
const ALIGN: usize = 4;

/// Returns the initial file system with which a guest boots: its own, plus everything needed to
/// restart itself if it does.
pub(crate) fn initrd(options: &Options, kernel: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let own = read(&options.initrd)?;
    match options.restart {
        Restart::Reboot => Ok(own),
        _ => Ok(append(&own, kernel, &read(&options.programs)?)?),
    }
}

/// Returns an initial file system with programs that load a kernel, and with an archive of that
/// kernel and the initial file system itself.
fn append(own: &[u8], kernel: &[u8], programs: &[u8]) -> io::Result<Vec<u8>> {
    let mut all = [own, programs].concat();
    all.resize(all.len().next_multiple_of(ALIGN), 0);
    for (path, content) in [(NEXT_KERNEL, kernel), (NEXT_INITRD, own)] {
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let mut file = Builder::new(path.trim_start_matches('/')).mode(FILE).write(&mut all, size);
        file.write_all(content)?;
        file.finish()?;
    }
    newc::trailer(all)
}

/// MiB of RAM reserved at the end for a crash kernel.
const CRASH: u64 = 256;

/// Returns the option that reserves RAM for a crash kernel, if the guest is to have one.
pub(crate) fn crash_kernel(options: &Options) -> String {
    match options.restart {
        Restart::Crash => format!("crashkernel={CRASH}M@{}M", options.memory.saturating_sub(CRASH)),
        _ => String::new(),
    }
}
