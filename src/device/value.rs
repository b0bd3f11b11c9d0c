//! Register values and their byte order.

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

pub(super) mod sealed {
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
pub(super) fn decode<V: RegisterValue>(bytes: &[u8], endian: Endian) -> V {
    let append = |bits: u64, byte: &u8| bits << 8 | u64::from(*byte);
    V::from_bits(match endian {
        Endian::Big => bytes.iter().fold(0, append),
        Endian::Little => bytes.iter().rev().fold(0, append),
    })
}

/// Encodes a value to bytes in the region's order: the first `WIDTH` of them.
pub(super) fn encode<V: RegisterValue>(value: V, endian: Endian) -> [u8; 8] {
    match endian {
        Endian::Little => value.bits().to_le_bytes(),
        Endian::Big => (value.bits() << (64 - 8 * V::WIDTH)).to_be_bytes(),
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
