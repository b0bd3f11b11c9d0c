//! A file whose pages are shared with devices: what must hold before it is mapped.

use super::Errno;
use crate::addr::PageShift;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::stat::fstat;
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use std::os::fd::{AsFd, OwnedFd};

/// Why a part of a file cannot be shared with devices. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum FileError {
    /// The length is zero.
    #[error("no bytes at offset {offset:#x} of the file were requested: request one page of {page} at least")]
    Empty { offset: u64, page: PageShift },
    /// The offset is not on a page.
    #[error(
        "the {len:#x} bytes at offset {offset:#x} of the file do not begin on a page of {page}: \
         begin at {:#x}",
        page.floor(*offset)
    )]
    Offset { offset: u64, len: u64, page: PageShift },
    /// The length is not whole pages.
    #[error(
        "the {len:#x} bytes at offset {offset:#x} of the file are not whole pages of {page}: \
         extend the file, and request a multiple of that"
    )]
    Length { offset: u64, len: u64, page: PageShift },
    /// The file ends before it.
    #[error(
        "the {len:#x} bytes at offset {offset:#x} reach past the end of the file, which has {size:#x} bytes: \
         extend it first, with `File::set_len`"
    )]
    Short { offset: u64, len: u64, size: u64 },
    /// The kernel refused to map it.
    #[error(
        "the kernel does not map {len:#x} bytes at offset {offset:#x} of the file: {errno}; \
         it must be a file in memory, open for reading and writing"
    )]
    Refused { offset: u64, len: u64, errno: Errno },
}

crate::error::classify!(FileError { Argument: Empty, Offset, Length, Short; Kernel: Refused; });

/// Returns the page a mapping of `file` has on a host with pages of `host`: hugetlbfs has its own.
pub(super) fn page(file: impl AsFd, host: PageShift) -> Result<PageShift, Errno> {
    let facts = fstatfs(file)?;
    if facts.filesystem_type() != HUGETLBFS_MAGIC {
        return Ok(host);
    }
    let page = u64::try_from(facts.optimal_transfer_size()).ok().and_then(PageShift::from_bytes);
    page.map(|page| page.max(host)).ok_or(Errno::EINVAL)
}

/// Refuses parts that are not whole pages of the file, or extend past its end.
pub(super) fn check(file: impl AsFd, offset: u64, len: u64, page: PageShift) -> Result<(), FileError> {
    if len == 0 {
        return Err(FileError::Empty { offset, page });
    }
    if offset & page.mask() != 0 {
        return Err(FileError::Offset { offset, len, page });
    }
    if len & page.mask() != 0 {
        return Err(FileError::Length { offset, len, page });
    }
    let facts = fstat(&file).map_err(|errno| FileError::Refused { offset, len, errno })?;
    let size = u64::try_from(facts.st_size).unwrap_or(0);
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(FileError::Short { offset, len, size }),
    }
}

/// A file that may shrink under its mapping.
#[derive(Debug)]
pub(super) struct Unsealed {
    file: OwnedFd,
    /// Where the mapping begins.
    offset: u64,
}

impl Unsealed {
    pub(super) fn new(file: impl AsFd, offset: u64) -> Result<Self, Errno> {
        let file = file.as_fd().try_clone_to_owned();
        let file = file.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))?;
        Ok(Self { file, offset })
    }

    /// Returns how many bytes the file has now from the mapping's start on.
    pub(super) fn bytes(&self) -> u64 {
        let size = fstat(&self.file).map_or(0, |facts| u64::try_from(facts.st_size).unwrap_or(0));
        size.saturating_sub(self.offset)
    }
}

/// Seals the file against shrinking, where it can be sealed. Returns whether it is sealed.
pub(super) fn seal(file: impl AsFd) -> bool {
    // A file that is sealed already may allow no further seals, so the result is read separately.
    let _ = fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK));
    let seals = fcntl(&file, FcntlArg::F_GET_SEALS);
    seals.is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(SealFlag::F_SEAL_SHRINK))
}
