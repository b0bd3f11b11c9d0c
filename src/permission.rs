//! Permissions of a device for a mapped page.

use crate::uapi::vfio::{DMA_MAP_FLAG_READ, DMA_MAP_FLAG_WRITE};
use core::fmt;

/// What a device may do with a mapped page. A TCE with neither permission maps nothing, so there is
/// no such value.
///
/// On powernv the kernel adds READ wherever WRITE is given; on pseries write-only memory really
/// cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// The device may read.
    Read,
    /// The device may write.
    Write,
    /// The device may read and write.
    ReadWrite,
}

impl Permission {
    /// Returns the flags of `VFIO_IOMMU_MAP_DMA`, which are also the low bits of a TCE (LoPAR).
    pub const fn bits(self) -> u32 {
        match self {
            Self::Read => DMA_MAP_FLAG_READ,
            Self::Write => DMA_MAP_FLAG_WRITE,
            Self::ReadWrite => DMA_MAP_FLAG_READ | DMA_MAP_FLAG_WRITE,
        }
    }

    /// Returns the permission of those bits; `None` if neither is set.
    pub const fn from_bits(bits: u32) -> Option<Self> {
        // No branch: which of them comes next is hard to predict.
        const BY_BITS: [Option<Permission>; 4] =
            [None, Some(Permission::Read), Some(Permission::Write), Some(Permission::ReadWrite)];
        BY_BITS[(bits & 3) as usize]
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Read => "r",
            Self::Write => "w",
            Self::ReadWrite => "rw",
        })
    }
}
