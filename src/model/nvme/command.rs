//! Commands, completions and status codes: NVM Express base specification 2.0, sections 3.3.3 and
//! 4.

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An entry of a submission queue.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Command {
    pub(super) opcode: u8,
    /// Fused operation in bits 0 and 1, PRP or SGL in bits 6 and 7.
    pub(super) flags: u8,
    pub(super) id: U16,
    pub(super) namespace: U32,
    reserved: U64,
    metadata: U64,
    pub(super) prp: [U64; 2],
    /// Dwords 10 to 15.
    dwords: [U32; 6],
}

/// An entry of a completion queue.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Completion {
    pub(super) result: U32,
    pub(super) reserved: U32,
    pub(super) head: U16,
    pub(super) queue: U16,
    pub(super) id: U16,
    /// The status, shifted left over the phase bit.
    pub(super) status: U16,
}

pub(super) const COMMAND: usize = size_of::<Command>();
pub(super) const COMPLETION: usize = size_of::<Completion>();
const _: () = assert!(COMMAND == 64 && COMPLETION == 16);

impl Command {
    /// Returns dword 10 to 15.
    pub(super) fn dword(&self, number: usize) -> u32 {
        self.dwords[number - 10].get()
    }

    /// Returns whether it is neither fused nor has its data in SGLs.
    pub(super) fn is_plain(&self) -> bool {
        self.flags & 0xc3 == 0
    }
}

/// A status that is an error: code, type in bits 8 to 10, and bit 14 if a retry would fail again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub(super) u16);

impl Status {
    /// A retry would fail again.
    const FINAL: u16 = 1 << 14;

    pub(super) const INVALID_OPCODE: Self = Self(0x01 | Self::FINAL);
    pub(super) const INVALID_FIELD: Self = Self(0x02 | Self::FINAL);
    pub(super) const DATA_TRANSFER: Self = Self(0x04);
    pub(super) const ABORTED: Self = Self(0x07);
    pub(super) const ABORTED_QUEUE_DELETED: Self = Self(0x08);
    pub(super) const INVALID_NAMESPACE: Self = Self(0x0b | Self::FINAL);
    pub(super) const SEQUENCE: Self = Self(0x0c | Self::FINAL);
    pub(super) const PRP_OFFSET: Self = Self(0x13 | Self::FINAL);
    pub(super) const OUT_OF_RANGE: Self = Self(0x80 | Self::FINAL);

    pub(super) const NO_COMPLETION_QUEUE: Self = Self(0x100 | Self::FINAL);
    pub(super) const QUEUE_ID: Self = Self(0x101 | Self::FINAL);
    pub(super) const QUEUE_SIZE: Self = Self(0x102 | Self::FINAL);
    pub(super) const EVENT_LIMIT: Self = Self(0x105 | Self::FINAL);
    pub(super) const VECTOR: Self = Self(0x108 | Self::FINAL);
    pub(super) const LOG_PAGE: Self = Self(0x109 | Self::FINAL);
    pub(super) const QUEUE_DELETION: Self = Self(0x10c | Self::FINAL);
    pub(super) const NOT_SAVEABLE: Self = Self(0x10d | Self::FINAL);
}

/// How a command ends other than with success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It is answered with this status.
    Status(Status),
    /// Its DMA does not end: it is retried later.
    Stuck,
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}
