//! Lines of text for the monitor.

use super::hcall::{H_PUT_TERM_CHAR, hcall};
use core::fmt;

/// The terminal every pseries guest has.
pub(super) struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for piece in text.as_bytes().chunks(16) {
            let mut bytes = [0; 16];
            bytes[..piece.len()].copy_from_slice(piece);
            let bytes = u128::from_be_bytes(bytes);
            hcall(H_PUT_TERM_CHAR, [0, piece.len() as u64, (bytes >> 64) as u64, bytes as u64]);
        }
        Ok(())
    }
}

/// A line.
macro_rules! say {
    ($($text:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::guest::console::Console, $($text)*);
    }};
}
pub(super) use say;
