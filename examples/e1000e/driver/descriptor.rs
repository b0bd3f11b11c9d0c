//! Descriptors in memory: 82574 datasheet, sections 7.1.4 (extended receive descriptors) and 7.2.4
//! (legacy transmit descriptors).

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// End of packet: the last of its descriptors.
const END: u8 = 1;
/// Insert the Ethernet checksum.
const INSERT_FCS: u8 = 1 << 1;
/// Report status: set [`DONE`] after the descriptor was read.
const REPORT: u8 = 1 << 3;

/// The controller is done with a descriptor. The same bit in both kinds.
const DONE: u32 = 1;
/// Status of a received packet: its last descriptor.
const LAST: u32 = 1 << 1;

/// Asks the controller to send a piece of a packet.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Transmit {
    address: U64,
    length: U16,
    checksum_offset: u8,
    command: u8,
    pub(super) status: u8,
    checksum_start: u8,
    special: U16,
}

impl Transmit {
    /// Describes `length` bytes at a bus address.
    pub(super) fn new(address: u64, length: u16, last: bool) -> Self {
        let command = INSERT_FCS | REPORT | if last { END } else { 0 };
        Self { address: address.into(), length: length.into(), command, ..Self::default() }
    }

    /// Returns whether the controller has read a descriptor and its piece.
    pub(super) fn is_done(status: u8) -> bool {
        u32::from(status) & DONE != 0
    }
}

/// Offers a buffer to the controller, which replaces it by [`ReceiveDone`].
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Receive {
    pub(super) address: U64,
    /// Offset of [`ReceiveDone::status`]: 0 until the controller is done.
    pub(super) status: U32,
    pub(super) rest: U32,
}

/// What the controller writes over a receive descriptor.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct ReceiveDone {
    /// Type of the hash, and the receive queue.
    queues: U32,
    hash: U32,
    pub(super) status: U32,
    length: U16,
    vlan: U16,
}

const _: () = assert!(size_of::<Transmit>() == 16 && size_of::<Receive>() == 16 && size_of::<ReceiveDone>() == 16);

impl ReceiveDone {
    pub(super) fn is_done(status: U32) -> bool {
        status.get() & DONE != 0
    }

    /// Returns the bytes in the buffer.
    pub(super) fn length(&self) -> u16 {
        self.length.get()
    }

    /// Returns whether it is the last buffer of a packet.
    pub(super) fn is_last(&self) -> bool {
        self.status.get() & LAST != 0
    }

    /// Returns the errors of the packet: checksum, sequence, data.
    pub(super) fn errors(&self) -> u8 {
        (self.status.get() >> 24) as u8
    }
}
