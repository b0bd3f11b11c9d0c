//! Arguments near the boundaries that matter, and occasionally any number.

use super::setup::SLOTS;
use crate::guest_fixture::{BIG, LIOBN, LIST};
use arbitrary::{Result, Unstructured};

const SMALL: u64 = 0x1000;
const LARGE: u64 = 0x1_0000;

pub fn below(u: &mut Unstructured<'_>, end: u8) -> Result<u64> {
    Ok(u.int_in_range(0..=end - 1)?.into())
}

/// Picks one of the choices.
pub fn pick<T: Copy>(u: &mut Unstructured<'_>, choices: &[T]) -> Result<T> {
    u.choose(choices).copied()
}

/// Generates powers of two and their neighbours.
fn border(u: &mut Unstructured<'_>) -> Result<u64> {
    let power = 1_u64 << below(u, 64)?;
    let beside = pick(u, &[0, 1, SMALL, LARGE])?;
    Ok(if u.arbitrary()? { power.wrapping_add(beside) } else { power.wrapping_sub(beside) })
}

/// Generates the LIOBN of a window that may exist, default or dynamic of two PHBs, or of none.
fn liobn(u: &mut Unstructured<'_>) -> Result<u64> {
    let first = u64::from(LIOBN.0);
    Ok(match below(u, 16)? {
        0..=4 => first,
        5..=8 => first + 1,
        9 | 10 => first + 0x10,
        11 | 12 => first + 0x11,
        13 => first | 1 << 32,
        14 => first + 2,
        _ => u.arbitrary()?,
    })
}

/// Generates a bus address.
fn ioba(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match below(u, 16)? {
        0..=2 => pick(u, &[0, BIG])? + below(u, 255)? * SMALL,
        3 | 4 => pick(u, &[0, BIG])? + (below(u, 6)? << 21),
        5 => BIG + (below(u, 4)? << 24),
        // The ends of windows.
        6..=8 => (1 << (24 + below(u, 8)?)) - below(u, 3)? * SMALL,
        9..=11 => BIG + (1 << (16 + below(u, 24)?)) - below(u, 3)? * LARGE,
        12 => pick(u, &[0, BIG])? + 0x800,
        13 | 14 => border(u)?,
        _ => u.arbitrary()?,
    })
}

/// Generates a window and a bus address, which usually belong together.
pub fn target(u: &mut Unstructured<'_>) -> Result<(u64, u64)> {
    let first = u64::from(LIOBN.0);
    Ok(match below(u, 32)? {
        0..=10 => (first, below(u, 64)? * SMALL),
        11..=19 => (first + 1, BIG + below(u, 64)? * LARGE),
        20 => (first + 0x10, below(u, 64)? * SMALL),
        21 => (first + 0x11, BIG + below(u, 64)? * LARGE),
        22 => (first, below(u, 8)? * LARGE),
        _ => (liobn(u)?, ioba(u)?),
    })
}

/// Generates a TCE, usually with rights and to RAM that may exist.
pub fn tce(u: &mut Unstructured<'_>) -> Result<u64> {
    let kind = below(u, 32)?;
    let rights = pick(u, &[3, 3, 3, 3, 3, 1, 2, 0])?;
    let slot = pick(u, &[0, 0, 1, 1, 2, 2, 3, 4])?;
    let (start, len) = SLOTS[slot];
    Ok(match kind {
        0..=7 => (start + below(u, 64)? * SMALL) | rights,
        8..=19 => (start + below(u, 16)? * LARGE) | rights,
        20 | 21 => (start + (below(u, 8)? << 21)) | rights,
        22 => (start + (below(u, 2)? << 24)) | rights,
        23 | 24 => (start + len).wrapping_sub(below(u, 3)? * SMALL) | rights,
        25 => start.wrapping_sub(SMALL) | rights,
        26 => (start + 0x804) | rights,
        27 | 28 => 0,
        29 | 30 => border(u)? | rights,
        _ => u.arbitrary()?,
    })
}

/// Generates a number of TCEs.
pub fn count(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match below(u, 32)? {
        0..=13 => 1 + below(u, 16)?,
        14..=19 => 1 + below(u, 128)?,
        20..=23 => 512 - below(u, 2)?,
        24 => 513,
        25 => 0,
        26..=28 => 1 << below(u, 20)?,
        29 => border(u)?,
        _ => u.arbitrary()?,
    })
}

/// Generates the guest address of a list or an argument block.
pub fn block(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match below(u, 32)? {
        0..=23 => LIST + below(u, 4)? * SMALL,
        24 => LIST + 8 * below(u, 255)?,
        // Across the end of a slot, where another may begin.
        25..=28 => {
            let (start, len) = pick(u, &SLOTS)?;
            (start + len).wrapping_sub(pick(u, &[0, 8, 16, 24, 32, SMALL])?)
        }
        29 => border(u)?,
        30 => u64::MAX - below(u, 24)?,
        _ => u.arbitrary()?,
    })
}
