//! Commands and completions in memory: NVM Express base specification 2.0, sections 3.3.3 and 4.

use core::fmt;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// An entry of a submission queue.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Command {
    pub(crate) opcode: u8,
    /// 0: no fused command, data by PRP.
    pub(crate) flags: u8,
    /// Identifier, which is repeated in the completion.
    pub(crate) id: U16,
    pub(crate) namespace: U32,
    pub(crate) reserved: U64,
    pub(crate) metadata: U64,
    /// Bus addresses of the data: the first page, and the second one or a list of the rest.
    pub(crate) prp: [U64; 2],
    /// Fields defined by the opcode.
    pub(crate) dwords: [U32; 6],
}

/// An entry of a completion queue.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Completion {
    /// Result defined by the opcode.
    pub(crate) result: U32,
    pub(crate) reserved: U32,
    /// How far the controller has read the submission queue.
    pub(crate) head: U16,
    pub(crate) queue: U16,
    pub(crate) id: U16,
    /// The status, shifted over the phase bit, which changes from round to round.
    pub(crate) status: U16,
}

const _: () = assert!(size_of::<Command>() == 64 && size_of::<Completion>() == 16);

impl Completion {
    pub(crate) fn status(&self) -> Status {
        Status(self.status.get() >> 1)
    }
}

/// The outcome of a command: status code in bits 0 to 7, its type in bits 8 to 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Status(u16);

impl Status {
    pub(crate) fn is_success(self) -> bool {
        self.0 & 0x7ff == 0
    }

    /// Returns the status code.
    pub(crate) fn code(self) -> u8 {
        self.0 as u8
    }

    /// Returns the status code's type: 0 generic, 1 of this command, 2 media and data, 3 path.
    pub(crate) fn kind(self) -> u8 {
        (self.0 >> 8 & 7) as u8
    }

    /// Returns whether the same command would fail again.
    pub(crate) fn is_final(self) -> bool {
        self.0 & 1 << 14 != 0
    }

    fn name(self) -> &'static str {
        match (self.kind(), self.code()) {
            (0, 0x01) => "invalid opcode",
            (0, 0x02) => "invalid field",
            (0, 0x04) => "data transfer error",
            (0, 0x06) => "internal error",
            (0, 0x07) => "aborted by request",
            (0, 0x08) => "aborted since its queue was deleted",
            (0, 0x0b) => "invalid namespace",
            (0, 0x13) => "invalid PRP offset",
            (0, 0x80) => "block out of range",
            (0, 0x81) => "capacity exceeded",
            (0, 0x82) => "namespace not ready",
            (1, 0x00) => "no such completion queue",
            (1, 0x01) => "invalid queue identifier",
            (1, 0x02) => "invalid queue size",
            (1, 0x08) => "invalid interrupt vector",
            (2, 0x80) => "write fault",
            (2, 0x81) => "unrecovered read error",
            _ => "see the specification",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = if self.is_final() { ", for good" } else { "" };
        write!(f, "{} (type {}, code {:#04x}{again})", self.name(), self.kind(), self.code())
    }
}

/// Opcodes of the admin queue.
pub(crate) mod admin {
    pub(crate) const CREATE_COMMANDS: u8 = 0x01;
    pub(crate) const CREATE_COMPLETIONS: u8 = 0x05;
    pub(crate) const IDENTIFY: u8 = 0x06;
    pub(crate) const SET_FEATURES: u8 = 0x09;
}

/// Opcodes of the other queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "kebab-case")]
#[repr(u8)]
pub(crate) enum Operation {
    /// Makes the controller write back its cache.
    Flush = 0x00,
    /// Memory to disk.
    Write = 0x01,
    /// Disk to memory.
    Read = 0x02,
}
