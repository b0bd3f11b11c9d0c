//! Bytes on pages of their own, to be lent to devices.

use super::{Dma, DmaError};
use crate::host::Errno;
use core::fmt;
use core::ops::{Deref, DerefMut};

/// Bytes of the program's own that begin and end on a page of the host, as [`Dma::with_slice`]
/// takes them. Used as a slice.
pub struct AlignedBytes {
    memory: Vec<u8>,
    /// Where the first page begins in `memory`.
    start: usize,
    len: usize,
}

impl Dma {
    /// Makes at least `len` bytes, zeroed, in whole pages of the host: memory of the program's, of
    /// which devices see nothing until it is lent to them.
    pub fn aligned_bytes(&self, len: usize) -> Result<AlignedBytes, DmaError> {
        if len == 0 {
            return Err(DmaError::Empty);
        }
        let page = self.space().registry().host().page_shift();
        let failed = || DmaError::Memory { bytes: len as u64, page, errno: Errno::ENOMEM };
        let size = page.ceil(len as u64).and_then(|size| usize::try_from(size).ok()).ok_or_else(failed)?;
        let page_bytes = page.bytes() as usize;
        let mut memory = Vec::new();
        let all = size.checked_add(page_bytes).ok_or_else(failed)?;
        memory.try_reserve_exact(all).map_err(|_| failed())?;
        memory.resize(all, 0);
        let start = memory.as_ptr().align_offset(page_bytes);
        if start >= page_bytes {
            return Err(failed());
        }
        Ok(AlignedBytes { memory, start, len: size })
    }
}

impl Deref for AlignedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl DerefMut for AlignedBytes {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

impl fmt::Debug for AlignedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBytes({} bytes)", self.len)
    }
}
