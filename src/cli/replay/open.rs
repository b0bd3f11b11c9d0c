//! The text of a trace: plain text or .xz, distinguished by their first bytes.

use lzma_rust2::XzReader;
use std::io::{self, BufRead, BufReader, Read};

/// First bytes of every .xz file (The .xz File Format, 2.1.1.1).
const XZ_MAGIC: &[u8] = b"\xfd7zXZ\0";
/// Memory limit of the decoder, KiB: slightly more than `xz -9` needs.
const XZ_MEMORY: u32 = 80 << 10;

/// The text of a trace.
pub(super) fn read<R: Read + 'static>(mut inner: R) -> io::Result<Box<dyn BufRead>> {
    let mut start = Vec::new();
    inner.by_ref().take(XZ_MAGIC.len() as u64).read_to_end(&mut start)?;
    let is_xz = start == XZ_MAGIC;
    let whole = BufReader::new(io::Cursor::new(start).chain(inner));
    if is_xz {
        return Ok(Box::new(BufReader::new(XzReader::new_mem_limit(whole, true, XZ_MEMORY))));
    }
    Ok(Box::new(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf 'two\nlines\n' | xz`.
    const TWO_LINES: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00, 0x00, 0x04, 0xe6, 0xd6, 0xb4, 0x46, 0x02, 0x00, 0x21, 0x01, 0x16, 0x00,
        0x00, 0x00, 0x74, 0x2f, 0xe5, 0xa3, 0x01, 0x00, 0x09, 0x74, 0x77, 0x6f, 0x0a, 0x6c, 0x69, 0x6e, 0x65, 0x73,
        0x0a, 0x00, 0x00, 0x00, 0x37, 0xee, 0x89, 0x92, 0xb7, 0x52, 0x51, 0x29, 0x00, 0x01, 0x22, 0x0a, 0x15, 0x1a,
        0xe1, 0x67, 0x1f, 0xb6, 0xf3, 0x7d, 0x01, 0x00, 0x00, 0x00, 0x00, 0x04, 0x59, 0x5a,
    ];

    fn lines(bytes: &'static [u8]) -> io::Result<Vec<String>> {
        read(bytes)?.lines().collect()
    }

    #[test]
    fn plain_text_is_read_as_it_is() {
        assert_eq!(lines(b"two\nlines\n").unwrap(), ["two", "lines"]);
        assert_eq!(lines(b"").unwrap(), Vec::<String>::new());
        assert_eq!(lines(b"\xfd7z").unwrap_err().kind(), io::ErrorKind::InvalidData, "no UTF-8, but no .xz either");
    }

    #[test]
    fn xz_is_decompressed_whatever_the_file_is_called() {
        assert_eq!(lines(TWO_LINES).unwrap(), ["two", "lines"]);
        let twice = [TWO_LINES, TWO_LINES].concat();
        assert_eq!(lines(twice.leak()).unwrap(), ["two", "lines", "two", "lines"], "several streams are one text");
    }

    #[test]
    fn damaged_xz_is_an_error_wherever_it_is_damaged() {
        for length in XZ_MAGIC.len()..TWO_LINES.len() {
            assert!(lines(&TWO_LINES[..length]).is_err(), "cut after {length} bytes");
        }
        for at in XZ_MAGIC.len()..TWO_LINES.len() {
            let mut damaged = TWO_LINES.to_vec();
            damaged[at] ^= 0x10;
            assert!(lines(damaged.leak()).is_err(), "damaged at byte {at}");
        }
    }
}
