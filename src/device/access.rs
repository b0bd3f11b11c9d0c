//! Checks one access to a region, then makes it.

use super::AccessError;
use super::value::{Endian, RegisterValue, decode, encode};
use crate::host::Errno;
use crate::space::DeviceRegion;
use std::sync::Arc;

/// Names of the BARs in errors.
pub(super) const BARS: [&str; 6] = ["BAR 0", "BAR 1", "BAR 2", "BAR 3", "BAR 4", "BAR 5"];
/// Name of the configuration space in errors.
pub(super) const CONFIG: &str = "configuration space";

/// A region of a device, with its name.
pub(super) struct Access {
    pub(super) region: DeviceRegion,
    pub(super) device: Arc<str>,
    pub(super) name: &'static str,
}

impl core::fmt::Debug for Access {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} of {}, {:#x} bytes", self.name, self.device, self.region.size())
    }
}

impl Access {
    fn check(&self, offset: u64, width: usize) -> Result<(), AccessError> {
        let (device, region, size) = (|| Arc::clone(&self.device), self.name, self.region.size());
        if !offset.is_multiple_of(width as u64) {
            return Err(AccessError::Misaligned { device: device(), region, offset, width });
        }
        if offset.checked_add(width as u64).is_none_or(|end| end > size) {
            return Err(AccessError::Outside { device: device(), region, offset, width, size });
        }
        Ok(())
    }

    fn failed(&self, offset: u64, width: usize, errno: Errno) -> AccessError {
        AccessError::Failed { device: Arc::clone(&self.device), region: self.name, offset, width, errno }
    }

    /// Reads a value. Returns it, and whether it is all ones.
    pub(super) fn read<V: RegisterValue>(&self, offset: u64, endian: Endian) -> Result<(V, bool), AccessError> {
        self.check(offset, V::WIDTH)?;
        let mut data = [0; 8];
        let data = &mut data[..V::WIDTH];
        self.region.read(offset, data).map_err(|errno| self.failed(offset, V::WIDTH, errno))?;
        Ok((decode(data, endian), data.iter().all(|byte| *byte == 0xff)))
    }

    pub(super) fn write<V: RegisterValue>(&self, offset: u64, value: V, endian: Endian) -> Result<(), AccessError> {
        self.check(offset, V::WIDTH)?;
        let data = &encode(value, endian)[..V::WIDTH];
        self.region.write(offset, data).map_err(|errno| self.failed(offset, V::WIDTH, errno))
    }
}
