//! Registers of a device: each access of the guest becomes an access of the monitor.
//!
//! The guest does not own the MSI-X table, which the host's kernel fills. It has a copy that is
//! never read, since messages are set up by RTAS.

use parking_lot::Mutex;
use spapr_iommu::device::{Bar, Device, DeviceError, Endian};
use std::ops::Range;

/// ID of the MSI-X capability, and offsets in it (PCI specification).
const MSIX: u8 = 0x11;
const CONTROL: u64 = 2;
const TABLE: u64 = 4;
/// Bytes of a vector in the table.
const VECTOR: u64 = 16;

/// BAR 0 of a device.
pub(crate) struct GuestBar {
    bar: Bar,
    table: Range<u64>,
    copy: Mutex<Vec<u8>>,
}

impl GuestBar {
    /// Opens BAR 0, which has the MSI-X table if the device has any.
    pub(crate) fn new(device: &Device) -> Result<Self, DeviceError> {
        let bar = device.bar(0, Endian::Little)?;
        let config = device.config();
        let table = match config.capability(MSIX) {
            Some(at) => {
                let vectors = u64::from(config.read::<u16>(at + CONTROL)? & 0x7ff) + 1;
                let start = u64::from(config.read::<u32>(at + TABLE)? & !7);
                start..start + vectors * VECTOR
            }
            None => 0..0,
        };
        let copy = Mutex::new(vec![0; (table.end - table.start) as usize]);
        Ok(Self { bar, table, copy })
    }

    /// Returns its size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.bar.size()
    }

    /// Performs a load; all ones where there is no register.
    pub(crate) fn load(&self, at: u64, len: usize) -> Vec<u8> {
        if let Some(place) = self.in_table(at, len) {
            return self.copy.lock()[place].to_vec();
        }
        let value = match len {
            1 => self.bar.read::<u8>(at).map(|value| value.to_le_bytes().to_vec()),
            2 => self.bar.read::<u16>(at).map(|value| value.to_le_bytes().to_vec()),
            4 => self.bar.read::<u32>(at).map(|value| value.to_le_bytes().to_vec()),
            _ => self.bar.read::<u64>(at).map(|value| value.to_le_bytes().to_vec()),
        };
        value.unwrap_or_else(|_| vec![0xff; len])
    }

    /// Performs a store; does nothing where there is no register.
    pub(crate) fn store(&self, at: u64, data: &[u8]) {
        if let Some(place) = self.in_table(at, data.len()) {
            self.copy.lock()[place].copy_from_slice(data);
            return;
        }
        let _ = match *data {
            [a] => self.bar.write(at, a),
            [a, b] => self.bar.write(at, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.bar.write(at, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => self.bar.write(at, u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            _ => Ok(()),
        };
    }

    fn in_table(&self, at: u64, len: usize) -> Option<Range<usize>> {
        let end = at.checked_add(len as u64)?;
        let inside = at >= self.table.start && end <= self.table.end;
        inside.then(|| (at - self.table.start) as usize..(end - self.table.start) as usize)
    }
}
