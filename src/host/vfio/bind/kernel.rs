//! What is written and opened to bind a device: the seam at which tests stand in for the kernel.

use super::super::facts::errno;
use crate::host::Errno;
use core::fmt;
use nix::fcntl::OFlag;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Orders to the kernel, and files that answer when they are opened.
pub(super) trait Kernel: Send + Sync + fmt::Debug {
    /// Writes an attribute in sysfs, in one call.
    fn write(&self, path: &Path, text: &str) -> Result<(), Errno>;

    /// Opens and closes the node of a group: `EBUSY` when somebody has it open.
    fn open_group(&self, path: &Path) -> Result<(), Errno>;

    /// Opens and closes a block device for itself alone: `EBUSY` when the kernel uses it or a part
    /// of it (a file system, swap, device mapper, md).
    fn claim_block(&self, path: &Path) -> Result<(), Errno>;
}

/// The running kernel.
#[derive(Debug)]
pub(super) struct Running;

impl Kernel for Running {
    fn write(&self, path: &Path, text: &str) -> Result<(), Errno> {
        // Not created: in sysfs that would be EACCES where ENOENT says more.
        let mut file = OpenOptions::new().write(true).open(path).map_err(errno)?;
        file.write_all(text.as_bytes()).map_err(errno)
    }

    fn open_group(&self, path: &Path) -> Result<(), Errno> {
        OpenOptions::new().read(true).write(true).open(path).map(drop).map_err(errno)
    }

    fn claim_block(&self, path: &Path) -> Result<(), Errno> {
        let flags = (OFlag::O_EXCL | OFlag::O_NONBLOCK).bits();
        OpenOptions::new().read(true).custom_flags(flags).open(path).map(drop).map_err(errno)
    }
}
