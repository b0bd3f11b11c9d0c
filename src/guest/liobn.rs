//! The number that names a TCE table.

use core::fmt;

/// A logical I/O bus number: what a guest names a DMA window with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Liobn(pub u32);

impl fmt::Display for Liobn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LIOBN {:#x}", self.0)
    }
}
