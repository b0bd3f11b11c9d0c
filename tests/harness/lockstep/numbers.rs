//! Numbers that are valid, at a boundary, or hostile.

use super::side::{Part, Side, Where};
use fastrand::Rng;
use spapr_iommu::host::Host;
use spapr_iommu::model::{Model, TableView};

/// An address where neither side has memory.
const HOLE: u64 = 1 << 42;
/// Start of powernv's second window, and of pseries' dynamic one.
pub const HIGH: u64 = 1 << 59;

/// Returns true in `percent` of all cases.
pub fn chance(rng: &mut Rng, percent: u32) -> bool {
    rng.u32(0..100) < percent
}

pub fn argsz(rng: &mut Rng, right: usize) -> u32 {
    match rng.u32(0..40) {
        0 => 0,
        1 => rng.u32(0..=right as u32),
        _ => right as u32,
    }
}

pub fn flags(rng: &mut Rng) -> u32 {
    match rng.u32(0..40) {
        0 => 1 << rng.u32(0..32),
        1 => rng.u32(..),
        _ => 0,
    }
}

/// Generates a small offset, usually 0.
fn off_by(rng: &mut Rng) -> u64 {
    match rng.u32(0..30) {
        0 => 1,
        1 => 0x800,
        2 => 0x1000,
        3 => 0x1000u64.wrapping_neg(),
        4 => 1u64.wrapping_neg(),
        5 => 0x8000,
        _ => 0,
    }
}

/// Generates any number, near a power of two.
pub fn wild(rng: &mut Rng) -> u64 {
    match rng.u32(0..6) {
        0 => 0,
        1 => u64::MAX,
        2 => rng.u64(..),
        3 => u64::MAX << rng.u32(12..32),
        _ => (1u64 << rng.u32(0..64)).wrapping_add(off_by(rng)),
    }
}

/// Generates a part of some memory in units of `unit` bytes, occasionally slightly off.
pub fn user(rng: &mut Rng, side: &Side<Model>, unit: u64) -> (Where, u64) {
    if side.memory.is_empty() || chance(rng, 8) {
        let at = if chance(rng, 70) { HOLE + (rng.u64(0..4) << 16) } else { wild(rng) };
        // Addresses that can be allocated as memory are not wild.
        let at = if (1 << 43..1 << 52).contains(&at) { HOLE } else { at };
        return (Where::Fixed(at), size(rng, unit, 8));
    }
    let slot = rng.usize(0..side.memory.len());
    let units = (side.memory[slot].len() / unit).max(1);
    let first = rng.u64(0..units);
    let offset = (first * unit).wrapping_add(off_by(rng)) as i64;
    let len = match rng.u32(0..10) {
        // To the end, and one past it.
        0 | 1 => (units - first) * unit,
        2 => (units - first + 1) * unit,
        3 => size(rng, unit, 8),
        _ => rng.u64(1..=(units - first).min(32)) * unit,
    };
    (Where::Memory { slot, offset }, len)
}

/// Generates all of some memory, or half: what is registered most.
pub fn whole(rng: &mut Rng, side: &Side<Model>) -> (Where, u64) {
    let slot = rng.usize(0..side.memory.len());
    let (len, page) = (side.memory[slot].len(), side.host.page_shift().bytes());
    match rng.u32(0..4) {
        0 if len > page => (Where::Memory { slot, offset: 0 }, (len / 2).next_multiple_of(page)),
        1 if len > page => {
            let first = (len / 2).next_multiple_of(page);
            (Where::Memory { slot, offset: first as i64 }, len - first)
        }
        _ => (Where::Memory { slot, offset: 0 }, len),
    }
}

pub fn size(rng: &mut Rng, unit: u64, most: u64) -> u64 {
    match rng.u32(0..24) {
        0 => wild(rng),
        1 => (rng.u64(1..=most) * unit).wrapping_add(off_by(rng)),
        _ => rng.u64(1..=most) * unit,
    }
}

/// Generates a part of some memory in whole pages.
pub fn part(rng: &mut Rng, side: &Side<Model>) -> Option<Part> {
    let slot = rng.usize(0..side.memory.len().max(1));
    let range = side.memory.get(slot)?;
    let page = side.host.backing(*range).ok()?.first()?.page.bytes();
    let pages = range.len() / page;
    let first = rng.u64(0..pages);
    let len = rng.u64(1..=(pages - first).min(4)) * page;
    Some(Part { slot, offset: first * page, len })
}

/// Generates a bus address, usually in a window: its start, its end, one past it.
pub fn iova(rng: &mut Rng, tables: &[TableView]) -> u64 {
    if tables.is_empty() || chance(rng, 5) {
        return match rng.u32(0..4) {
            0 => wild(rng),
            1 => HIGH + (rng.u64(0..32) << 12),
            _ => rng.u64(0..32) << 12,
        };
    }
    let table = &tables[rng.usize(0..tables.len())];
    let page = table.page.bytes();
    let near = match rng.u32(0..10) {
        0 => table.range.end().0.wrapping_sub(page),
        1 => table.range.end().0.wrapping_sub(rng.u64(1..16) * page),
        2 if chance(rng, 30) => table.range.end().0,
        3 if table.range.start().0 >= page && chance(rng, 30) => table.range.start().0 - page,
        _ => table.range.start().0 + rng.u64(0..48) * page,
    };
    near.wrapping_add(off_by(rng))
}
