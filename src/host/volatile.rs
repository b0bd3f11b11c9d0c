//! Volatile access to bytes that a device may change at any moment, or that are its registers.
//!
//! An access is cut into the widest naturally aligned pieces of 8, 4, 2 and 1 bytes, and each piece
//! is one load or store: so 1, 2, 4 and 8 aligned bytes are never torn. Registers are accessed
//! volatile ([`read`],
//! [`write`]): they are no memory, and each access does something. Memory is accessed by relaxed
//! atomics ([`load`], [`store`]): other threads may use it at the same time, which for volatile
//! accesses would be a data race.
#![allow(unsafe_code, reason = "no Rust reference may exist to what a device writes")]

use core::ffi::c_void;
use core::ops::Range;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering::Relaxed};

/// Reads `data.len()` bytes of registers at `offset`, in ascending order.
///
/// # Safety
/// The bytes must lie in one readable mapping, which starts at `base` on a multiple of 8.
pub(super) unsafe fn read(base: *const c_void, offset: u64, data: &mut [u8]) {
    for (at, piece) in pieces(offset, data.len()) {
        let address = base.wrapping_byte_add(at as usize);
        let target = &mut data[piece];
        // SAFETY: the piece lies in the mapping, as the caller guarantees, and `pieces` aligns it
        // to its width.
        unsafe {
            match target.len() {
                8 => target.copy_from_slice(&address.cast::<u64>().read_volatile().to_ne_bytes()),
                4 => target.copy_from_slice(&address.cast::<u32>().read_volatile().to_ne_bytes()),
                2 => target.copy_from_slice(&address.cast::<u16>().read_volatile().to_ne_bytes()),
                _ => target.copy_from_slice(&[address.cast::<u8>().read_volatile()]),
            }
        }
    }
}

/// Writes `data` to registers at `offset`, in ascending order.
///
/// # Safety
/// As for [`read`], and the bytes must be writable.
pub(super) unsafe fn write(base: *mut c_void, offset: u64, data: &[u8]) {
    for (at, piece) in pieces(offset, data.len()) {
        let address = base.wrapping_byte_add(at as usize);
        // SAFETY: as in `read`.
        unsafe {
            match data[piece] {
                [a, b, c, d, e, f, g, h] => {
                    address.cast::<u64>().write_volatile(u64::from_ne_bytes([a, b, c, d, e, f, g, h]));
                }
                [a, b, c, d] => address.cast::<u32>().write_volatile(u32::from_ne_bytes([a, b, c, d])),
                [a, b] => address.cast::<u16>().write_volatile(u16::from_ne_bytes([a, b])),
                [a] => address.cast::<u8>().write_volatile(a),
                _ => {}
            }
        }
    }
}

/// Reads `data.len()` bytes of memory at `offset`, in ascending order.
///
/// # Safety
/// The bytes lie in memory that can be read and written, which starts at `base` on a multiple of 8.
/// Until this returns nothing accesses them by other means than this and [`store`], except devices.
pub(super) unsafe fn load(base: *mut c_void, offset: u64, data: &mut [u8]) {
    for (at, piece) in pieces(offset, data.len()) {
        let address = base.wrapping_byte_add(at as usize);
        let target = &mut data[piece];
        // SAFETY: the piece lies in the memory, as the caller says, and `pieces` aligns it to its
        // width.
        unsafe {
            match target.len() {
                8 => target.copy_from_slice(&AtomicU64::from_ptr(address.cast()).load(Relaxed).to_ne_bytes()),
                4 => target.copy_from_slice(&AtomicU32::from_ptr(address.cast()).load(Relaxed).to_ne_bytes()),
                2 => target.copy_from_slice(&AtomicU16::from_ptr(address.cast()).load(Relaxed).to_ne_bytes()),
                _ => target.copy_from_slice(&[AtomicU8::from_ptr(address.cast()).load(Relaxed)]),
            }
        }
    }
}

/// Writes `data` to memory at `offset`, in ascending order.
///
/// # Safety
/// As for [`load`].
pub(super) unsafe fn store(base: *mut c_void, offset: u64, data: &[u8]) {
    for (at, piece) in pieces(offset, data.len()) {
        let address = base.wrapping_byte_add(at as usize);
        // SAFETY: as in `load`.
        unsafe {
            match data[piece] {
                [a, b, c, d, e, f, g, h] => {
                    let value = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
                    AtomicU64::from_ptr(address.cast()).store(value, Relaxed);
                }
                [a, b, c, d] => {
                    AtomicU32::from_ptr(address.cast()).store(u32::from_ne_bytes([a, b, c, d]), Relaxed);
                }
                [a, b] => AtomicU16::from_ptr(address.cast()).store(u16::from_ne_bytes([a, b]), Relaxed),
                [a] => AtomicU8::from_ptr(address.cast()).store(a, Relaxed),
                _ => {}
            }
        }
    }
}

/// Cuts `len` bytes at `offset` into naturally aligned pieces of 8, 4, 2 or 1 bytes, the widest
/// first possible: where each lies, and which of the caller's bytes it is. The range must not wrap.
pub(crate) fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        let at = offset + done as u64;
        let width = [8, 4, 2, 1].into_iter().find(|width| *width <= len - done && at.is_multiple_of(*width as u64))?;
        let piece = done..done + width;
        done += width;
        Some((at, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aligned_widths_are_one_piece_and_the_rest_is_cut_widest_first() {
        let widths = |offset, len| pieces(offset, len).map(|(_, piece)| piece.len()).collect::<Vec<_>>();
        for width in [1, 2, 4, 8] {
            assert_eq!(widths(8, width), [width]);
        }
        assert_eq!(widths(1, 16), [1, 2, 4, 8, 1]);
        assert_eq!(widths(4, 8), [4, 4]);
        assert_eq!(widths(2, 4), [2, 2]);
        assert_eq!(widths(6, 0), [0; 0]);
    }
}
