//! DMA masks: the bus addresses a device can address.

use crate::addr::IovaRange;
use core::fmt;

/// A device's DMA mask: how many bits its bus addresses have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DmaMask(u32);

impl DmaMask {
    /// All bus addresses: 64 bits.
    pub const ALL: Self = Self(64);

    /// Creates a mask of `bits` bits, 1 to 64.
    pub const fn bits(bits: u32) -> Option<Self> {
        if bits >= 1 && bits <= 64 { Some(Self(bits)) } else { None }
    }

    /// The smallest mask that reaches `last`.
    pub(super) const fn least(last: u64) -> Self {
        let bits = 64 - last.leading_zeros();
        Self(if bits == 0 { 1 } else { bits })
    }

    /// The last bus address it reaches.
    pub const fn reach(self) -> u64 {
        u64::MAX >> (64 - self.0)
    }

    /// Returns whether it reaches all of `range`.
    pub fn reaches(self, range: IovaRange) -> bool {
        range.end().0 - 1 <= self.reach()
    }
}

impl fmt::Display for DmaMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bits", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Iova;

    #[test]
    fn a_mask_reaches_its_last_address() {
        let range = |start, len| IovaRange::new(Iova(start), len).unwrap();
        let mask = DmaMask::bits(32).unwrap();
        assert_eq!(mask.reach(), 0xffff_ffff);
        assert!(mask.reaches(range(0xffff_f000, 0x1000)));
        assert!(!mask.reaches(range(0xffff_f000, 0x1001)));
        assert_eq!(DmaMask::ALL.reach(), u64::MAX);
        assert_eq!(DmaMask::bits(1).map(DmaMask::reach), Some(1));
        assert_eq!((DmaMask::least(0).0, DmaMask::least(0xffff).0, DmaMask::least(0x1_0000).0), (1, 16, 17));
        assert_eq!(DmaMask::least(u64::MAX), DmaMask::ALL);
        assert_eq!((DmaMask::bits(0), DmaMask::bits(65)), (None, None));
    }
}
