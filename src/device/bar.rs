//! BARs: the registers of a device.

use super::AccessError;
use super::access::Access;
use super::open::OpenDevice;
use super::value::{Endian, RegisterValue};
use std::sync::Arc;

/// A BAR, with the registers that the device's manual describes.
///
/// Each access is a single volatile one of exactly its width, ordered with all memory the program
/// touches before and after it: a doorbell does not overtake the descriptor it announces. The
/// kernel accesses a BAR of I/O ports, which cannot be mapped.
///
/// It keeps the device's file open beyond its [`Device`](super::Device).
#[derive(Debug)]
pub struct Bar {
    pub(super) access: Access,
    pub(super) endian: Endian,
    pub(super) opened: Arc<OpenDevice>,
}

impl Bar {
    /// Reads the register at `offset`, bytes from the BAR's start, a multiple of the width.
    ///
    /// All ones may be a value, or what a read gives if the device does not answer. So if all bits
    /// are ones, and only then, EEH and the configuration space are checked:
    /// [`AccessError::Frozen`], [`AccessError::Gone`].
    pub fn read<V: RegisterValue>(&self, offset: u64) -> Result<V, AccessError> {
        match self.access.read(offset, self.endian)? {
            (value, false) => Ok(value),
            (value, true) => self.opened.check().map(|()| value),
        }
    }

    /// Writes the register at `offset`, bytes from the BAR's start, a multiple of the width. If the
    /// device does not answer, the value is lost, which only a read can detect.
    pub fn write<V: RegisterValue>(&self, offset: u64, value: V) -> Result<(), AccessError> {
        self.access.write(offset, value, self.endian)
    }

    /// Returns the size in bytes.
    pub fn size(&self) -> u64 {
        self.access.region.size()
    }

    /// Returns the byte order of its registers.
    pub fn endian(&self) -> Endian {
        self.endian
    }
}
