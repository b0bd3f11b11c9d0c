//! Memory of the process a host looks at: the running process's, or the model's.
//!
//! Scenarios and tests take their memory here, so that the same steps run on both hosts. A library user's own memory
//! needs none of this.

use super::Errno;
use crate::addr::{PageShift, UserAddr, UserRange};

/// What a piece of memory allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Nothing.
    None,
    /// Reading.
    Read,
    /// Reading and writing.
    ReadWrite,
}

/// Memory of this process that a model's devices reach through its owner: see
/// [`Model::lend`](super::model::Model::lend).
pub trait LentMemory: Send + Sync + core::fmt::Debug {
    /// Reads bytes.
    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes bytes.
    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno>;
}

/// Gets and gives back memory.
pub trait Memory {
    /// Memory of `size` bytes, zeroed, aligned to the larger of 64 KiB and `page`; `page` is the host's page, or one
    /// of hugetlb.
    fn allocate(&self, size: u64, page: PageShift) -> Result<UserRange, Errno>;

    /// Gives memory, or a part of it, back: there is a hole afterwards.
    fn free(&self, range: UserRange) -> Result<(), Errno>;

    /// Changes what is allowed.
    fn protect(&self, range: UserRange, protection: Protection) -> Result<(), Errno>;

    /// Reads bytes.
    fn read(&self, at: UserAddr, data: &mut [u8]) -> Result<(), Errno>;

    /// Writes bytes.
    fn write(&self, at: UserAddr, data: &[u8]) -> Result<(), Errno>;
}
