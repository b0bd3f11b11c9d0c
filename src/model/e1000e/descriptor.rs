//! Descriptors: 82574 datasheet, sections 7.1.3 and 7.1.4 (receive) and 7.2.4 to 7.2.7 (transmit).

use super::rss::Hash;

/// Commands of a transmit descriptor: end of packet, insert a checksum, report the status, extended
/// format.
const END: u8 = 1;
const CHECKSUM: u8 = 1 << 2;
const REPORT: u8 = 1 << 3;
const EXTENDED: u8 = 1 << 5;
/// Insert a VLAN tag.
const TAG: u8 = 1 << 6;
/// Type of an extended descriptor: data. The other one is a context for offloads.
const DATA: u32 = 1;
/// Offset of the status in a transmit descriptor.
pub(super) const STATUS: u64 = 12;

/// The controller is done with a descriptor; it is the last of its packet; its checksums were not
/// checked.
pub(super) const DONE: u8 = 1;
const LAST: u8 = 1 << 1;
const NO_CHECKSUMS: u8 = 1 << 2;

/// A descriptor of a packet to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Transmit {
    /// Bus address and bytes of a piece; `None` for a context.
    pub(super) piece: Option<(u64, usize)>,
    pub(super) is_last: bool,
    /// Whether the status is written back.
    pub(super) reports: bool,
    /// Whether it requests a feature that the model lacks.
    pub(super) offloads: bool,
}

fn word(bytes: &[u8; 16], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Returns the address with which every descriptor of data starts.
pub(super) fn address(bytes: &[u8; 16]) -> u64 {
    u64::from(word(bytes, 0)) | u64::from(word(bytes, 4)) << 32
}

impl Transmit {
    pub(super) fn new(bytes: &[u8; 16]) -> Self {
        let (lower, command) = (word(bytes, 8), bytes[11]);
        let (reports, is_last) = (command & REPORT != 0, command & END != 0);
        if command & EXTENDED == 0 {
            let piece = Some((address(bytes), (lower & 0xffff) as usize));
            return Self { piece, is_last, reports, offloads: command & (CHECKSUM | TAG) != 0 };
        }
        if lower >> 20 & 0xf != DATA {
            return Self { piece: None, is_last: false, reports, offloads: false };
        }
        // Bit 2 of the command means segmentation here, and checksums have a byte of their own.
        let offloads = command & (CHECKSUM | TAG) != 0 || bytes[13] & 3 != 0;
        Self { piece: Some((address(bytes), (lower & 0xf_ffff) as usize)), is_last, reports, offloads }
    }
}

/// Returns the contents that replace a receive descriptor in the extended format.
pub(super) fn received(length: u16, is_last: bool, queue: usize, hash: Option<Hash>) -> [u8; 16] {
    let mut bytes = [0; 16];
    if let Some(Hash { kind, value }) = hash {
        bytes[0] = kind;
        bytes[4..8].copy_from_slice(&value.to_le_bytes());
    }
    bytes[1] = queue as u8;
    bytes[8] = status(is_last);
    bytes[12..14].copy_from_slice(&length.to_le_bytes());
    bytes
}

/// Returns the same in the legacy format, which keeps the buffer's address.
pub(super) fn received_legacy(descriptor: &[u8; 16], length: u16, is_last: bool) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&descriptor[..8]);
    bytes[8..10].copy_from_slice(&length.to_le_bytes());
    bytes[12] = status(is_last);
    bytes
}

fn status(is_last: bool) -> u8 {
    DONE | NO_CHECKSUMS | if is_last { LAST } else { 0 }
}
