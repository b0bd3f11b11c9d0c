//! Registers: values, their byte order, and one checked access to a region.

use super::error::AccessError;
use crate::host::Errno;
use crate::space::DeviceRegion;
use core::fmt;
use std::sync::Arc;

/// Byte order of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endian {
    /// Low byte first: nearly all PCI devices, whatever the machine.
    Little,
    /// High byte first.
    Big,
}

/// A register's value: `u8`, `u16`, `u32` or `u64`, each accessed in one access of its width.
pub trait RegisterValue: sealed::Value {}

mod sealed {
    pub trait Value: Copy {
        const WIDTH: usize;
        fn from_bits(bits: u64) -> Self;
        fn bits(self) -> u64;
    }
}

macro_rules! values {
    ($($value:ty),+) => {
        $(impl sealed::Value for $value {
            const WIDTH: usize = size_of::<$value>();
            fn from_bits(bits: u64) -> Self {
                bits as $value
            }
            fn bits(self) -> u64 {
                self.into()
            }
        }
        impl RegisterValue for $value {})+
    };
}

values!(u8, u16, u32, u64);

/// Decodes a value from bytes in the region's order.
fn decode<V: RegisterValue>(bytes: &[u8], endian: Endian) -> V {
    let append = |bits: u64, byte: &u8| bits << 8 | u64::from(*byte);
    V::from_bits(match endian {
        Endian::Big => bytes.iter().fold(0, append),
        Endian::Little => bytes.iter().rev().fold(0, append),
    })
}

/// Encodes a value to bytes in the region's order: the first `WIDTH` of them.
fn encode<V: RegisterValue>(value: V, endian: Endian) -> [u8; 8] {
    match endian {
        Endian::Little => value.bits().to_le_bytes(),
        Endian::Big => (value.bits() << (64 - 8 * V::WIDTH)).to_be_bytes(),
    }
}

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

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_the_order_that_is_said() {
        assert_eq!(encode(0x0102u16, Endian::Little)[..2], [2, 1]);
        assert_eq!(encode(0x0102u16, Endian::Big)[..2], [1, 2]);
        assert_eq!(encode(0x01u8, Endian::Big)[..1], [1]);
        assert_eq!(encode(0x0102_0304_0506_0708u64, Endian::Big), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(decode::<u32>(&[1, 2, 3, 4], Endian::Big), 0x0102_0304);
        assert_eq!(decode::<u32>(&[1, 2, 3, 4], Endian::Little), 0x0403_0201);
    }
}
