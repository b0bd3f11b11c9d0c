//! The guest's RAM as its own program accesses it: by real addresses.

use core::sync::atomic::{Ordering, fence};

/// Place of buffers and lists for devices and hypercalls: after the image, in whole pages of any
/// size below 16 MiB.
pub(super) const BUFFERS: u64 = 32 << 20;

/// Writes a byte pattern that differs from word to word.
pub(super) fn fill(at: u64, len: u64, seed: u64) {
    (0..len / 8).for_each(|index| write(at + 8 * index, pattern(seed, index)));
}

/// Returns the first byte offset at which the pattern is missing.
pub(super) fn differs(at: u64, len: u64, seed: u64) -> Option<u64> {
    order();
    (0..len / 8).find(|index| read(at + 8 * index) != pattern(seed, *index)).map(|index| 8 * index)
}

fn pattern(seed: u64, index: u64) -> u64 {
    (seed ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Writes a list of TCEs for H_PUT_TCE_INDIRECT, big endian.
pub(super) fn write_list(at: u64, tces: impl Iterator<Item = u64>) {
    (0..).zip(tces).for_each(|(index, tce)| write(at + 8 * index, tce.to_be()));
}

/// Stores to memory, or to a device.
pub(super) fn write(at: u64, value: u64) {
    // SAFETY: addresses are of buffers after the image, which hold no Rust value, or of a device.
    unsafe { core::ptr::with_exposed_provenance_mut::<u64>(at as usize).write_volatile(value) }
}

/// Loads from memory, or from a device.
pub(super) fn read(at: u64) -> u64 {
    // SAFETY: as in `write`.
    unsafe { core::ptr::with_exposed_provenance::<u64>(at as usize).read_volatile() }
}

/// Loads 32 bits from a device.
pub(super) fn read32(at: u64) -> u32 {
    // SAFETY: as in `write`.
    unsafe { core::ptr::with_exposed_provenance::<u32>(at as usize).read_volatile() }
}

/// Stores 32 bits to a device.
pub(super) fn write32(at: u64, value: u32) {
    // SAFETY: as in `write`.
    unsafe { core::ptr::with_exposed_provenance_mut::<u32>(at as usize).write_volatile(value) }
}

/// Completes earlier accesses before later ones, to memory and devices alike.
pub(super) fn order() {
    fence(Ordering::SeqCst);
}
