//! Memory of the process a host looks at: the running process's, or the model's.
//!
//! Scenarios and tests allocate their memory here, so that the same steps run on both hosts.
//! Library users do not need it for their own memory.

use super::Errno;
use crate::addr::{PageShift, UserAddr, UserRange};
use std::sync::Arc;

/// Access allowed to a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// No access.
    None,
    /// Reading only.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// Memory of this process that a model's devices reach through its owner: see
/// `Model::lend` (feature `model`).
pub trait LentMemory: Send + Sync + core::fmt::Debug {
    /// Reads bytes.
    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes bytes.
    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno>;
}

/// Gets and gives back memory.
pub trait Memory {
    /// Allocates `size` zeroed bytes, aligned to the larger of 64 KiB and `page`; `page` is the
    /// host's page, or one of hugetlb.
    fn allocate(&self, size: u64, page: PageShift) -> Result<UserRange, Errno>;

    /// Frees memory or a part of it, which leaves a hole.
    fn free(&self, range: UserRange) -> Result<(), Errno>;

    /// Changes the access allowed to memory.
    fn protect(&self, range: UserRange, protection: Protection) -> Result<(), Errno>;

    /// Reads `data.len()` bytes at `at`.
    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes `data` at `at`.
    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno>;

    /// Lets the kernel see memory of this program that was not allocated here, reached through
    /// `memory`. The running kernel sees all of it; a model takes whole pages of its own size
    /// (EINVAL), where nothing else is (EEXIST), and again what it has.
    fn lend(&self, _range: UserRange, _memory: Arc<dyn LentMemory>) -> Result<(), Errno> {
        Ok(())
    }
}
