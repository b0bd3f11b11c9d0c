//! Registers of a device.

use super::AccessError;
use super::access::Access;
use super::opened::Opened;
use super::value::{Endian, RegisterValue};
use std::sync::Arc;

/// A BAR: registers of a device, as its maker describes them.
///
/// Each access is one of exactly its width, volatile, ordered with all memory the program touches before and after it: a
/// doorbell does not overtake the descriptor it announces. A BAR of I/O ports, which cannot be mapped, is accessed by the kernel.
///
/// It keeps the device's file open beyond its [`Device`](super::Device).
#[derive(Debug)]
pub struct Bar {
    pub(super) access: Access,
    pub(super) endian: Endian,
    pub(super) opened: Arc<Opened>,
}

impl Bar {
    /// Reads the register at `offset`, bytes from the BAR's start, a multiple of the width.
    ///
    /// All ones may be a value, or what is read where nobody answers. So when all bits are ones, and only then, EEH and the
    /// configuration space are asked: [`AccessError::Frozen`], [`AccessError::Gone`].
    pub fn read<V: RegisterValue>(&self, offset: u64) -> Result<V, AccessError> {
        match self.access.read(offset, self.endian)? {
            (value, false) => Ok(value),
            (value, true) => self.opened.check().map(|()| value),
        }
    }

    /// Writes the register at `offset`, likewise. Where nobody answers the value is lost, which only a read tells.
    pub fn write<V: RegisterValue>(&self, offset: u64, value: V) -> Result<(), AccessError> {
        self.access.write(offset, value, self.endian)
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.access.region.size()
    }

    /// The order of bytes in its registers.
    pub fn endian(&self) -> Endian {
        self.endian
    }
}
