//! LIOBNs: the numbers that name TCE tables.

use core::fmt;

/// A logical I/O bus number, with which a guest names a DMA window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Liobn(pub u32);

impl fmt::Display for Liobn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LIOBN {:#x}", self.0)
    }
}
