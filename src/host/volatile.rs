//! Volatile access to bytes that a device may change at any moment, or that are its registers.
//!
//! An access is cut into the widest naturally aligned pieces of 8, 4, 2 and 1 bytes, and each piece
//! is one load or store, so 1, 2, 4 and 8 aligned bytes are never torn.
#![allow(unsafe_code, reason = "no Rust reference may exist to what a device writes")]

use core::ffi::c_void;
use core::ops::Range;

/// Reads `data.len()` bytes at `offset`, in ascending order.
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

/// Writes `data` at `offset`, in ascending order.
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

/// Cuts `len` bytes at `offset` into naturally aligned pieces of 8, 4, 2 or 1 bytes, each as wide
/// as possible. Yields each piece's offset and its range in the caller's bytes. The range must not
/// wrap.
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
