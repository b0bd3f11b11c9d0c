//! Numbers near the boundaries that matter, and occasionally any number.

use arbitrary::{Arbitrary, Result, Unstructured};

/// Start of powernv's second window, and of the dynamic one of QEMU's firmware.
const BIG: u64 = 1 << 59;
/// One or 16 host pages.
pub const PAGE: u64 = 0x10000;
const SMALL: u64 = 0x1000;

/// A bus address.
#[derive(Clone, Copy, Debug)]
pub struct Bus(pub u64);

/// A length.
#[derive(Clone, Copy, Debug)]
pub struct Bytes(pub u64);

/// An address in one of the memories, or any user address.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    In { block: usize, offset: u64 },
    Wild(u64),
}

fn below(u: &mut Unstructured<'_>, end: u8) -> Result<u64> {
    Ok(u.int_in_range(0..=end - 1)?.into())
}

/// Generates powers of two and their neighbours.
fn border(u: &mut Unstructured<'_>) -> Result<u64> {
    let power = 1_u64 << below(u, 64)?;
    let beside = [0, 1, SMALL, PAGE][below(u, 4)? as usize];
    Ok(if u.arbitrary()? { power.wrapping_add(beside) } else { power.wrapping_sub(beside) })
}

impl<'a> Arbitrary<'a> for Bus {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let kind = below(u, 64)?;
        let base = if kind & 1 == 0 { 0 } else { BIG };
        Ok(Self(match kind >> 1 {
            0..=17 => base + below(u, 16)? * PAGE,
            18..=22 => base + below(u, 64)? * SMALL,
            23 | 24 => base + (below(u, 6)? << 21),
            25 => base + (below(u, 3)? << 24),
            // The ends of windows.
            26 | 27 => base + (1 << (24 + below(u, 20)?)) - below(u, 3)? * PAGE,
            28 => base + 0x800,
            29 => border(u)?,
            _ => u.arbitrary()?,
        }))
    }
}

impl<'a> Arbitrary<'a> for Bytes {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self(match below(u, 32)? {
            0..=14 => (1 + below(u, 8)?) * PAGE,
            15..=19 => (1 + below(u, 20)?) * SMALL,
            20..=22 => (1 + below(u, 3)?) << 21,
            23 => (1 + below(u, 2)?) << 24,
            24..=26 => 1 << (25 + below(u, 32)?),
            27 => 0x800,
            28 => 3,
            29 => border(u)?,
            _ => u.arbitrary()?,
        }))
    }
}

impl<'a> Arbitrary<'a> for Place {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let kind = below(u, 32)?;
        let block = [0, 0, 1, 2][kind as usize & 3];
        Ok(match kind >> 2 {
            0..=4 => Self::In { block, offset: below(u, 16)? * PAGE },
            5 => Self::In { block, offset: below(u, 64)? * SMALL },
            6 => Self::In { block, offset: below(u, 3)? << 21 },
            _ => match u.arbitrary()? {
                true => Self::In { block, offset: border(u)? },
                false => Self::Wild(u.arbitrary()?),
            },
        })
    }
}
