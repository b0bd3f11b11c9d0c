//! Data structures of IDENTIFY for controller and namespace: NVM Express base specification 2.0,
//! section 5.17, and NVM command set specification 1.0, section 4.1.5.

use super::NvmeError;
use core::ops::Range;

/// Size of either structure in bytes.
pub(crate) const BYTES: usize = 4096;

/// Structures that IDENTIFY returns.
pub(crate) const NAMESPACE: u32 = 0;
pub(crate) const CONTROLLER: u32 = 1;

/// Identity of a controller.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) serial: String,
    pub(crate) model: String,
    pub(crate) firmware: String,
    /// Largest number of bytes one command may move; `None` for no limit.
    pub(crate) most: Option<u64>,
    /// Whether it has a cache that a flush writes back.
    pub(crate) caches: bool,
}

impl Identity {
    pub(crate) fn new(answer: &[u8; BYTES], page: u64) -> Self {
        let text = |at: Range<usize>| String::from_utf8_lossy(&answer[at]).trim().to_owned();
        let most = u32::from(answer[77]);
        Self {
            serial: text(4..24),
            model: text(24..64),
            firmware: text(64..72),
            most: (most > 0).then(|| page.checked_shl(most).unwrap_or(u64::MAX)),
            caches: answer[525] & 1 != 0,
        }
    }
}

/// A namespace, i.e. a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Namespace {
    pub(crate) blocks: u64,
    /// Bytes in a block.
    pub(crate) block: u64,
}

impl Namespace {
    pub(crate) fn new(answer: &[u8; BYTES]) -> Result<Self, NvmeError> {
        let mut blocks = [0; 8];
        blocks.copy_from_slice(&answer[0..8]);
        // The format in use, of up to 64.
        let format = usize::from(answer[26] & 0xf | (answer[26] >> 5 & 3) << 4);
        let [metadata, more, shift, _] = core::array::from_fn(|i| answer[128 + 4 * format + i]);
        if (metadata, more) != (0, 0) {
            return Err(NvmeError::Unsupported { what: "blocks with metadata" });
        }
        if !(9..=16).contains(&shift) {
            return Err(NvmeError::Unsupported { what: "blocks of less than 512 bytes or more than 64 KiB" });
        }
        Ok(Self { blocks: u64::from_le_bytes(blocks), block: 1 << shift })
    }
}
