//! Receive side scaling: the queue for a packet. 82574 datasheet, section 7.1.11.

use super::QUEUES;
use super::registers::{MRQC, RETA, RSSRK, RXCSUM, Registers};

/// MRQC: queues by hash; hash of TCP ports and IPv4 addresses, of IPv4 addresses.
const ENABLE_BITS: u32 = 3;
const ENABLE: u32 = 1;
const TCP_IPV4: u32 = 1 << 16;
const IPV4: u32 = 1 << 17;
/// RXCSUM.PCSD: descriptors contain the hash, which RSS needs.
const IN_DESCRIPTOR: u32 = 1 << 13;

/// Kinds of hashes, as descriptors show them.
const KIND_TCP_IPV4: u8 = 1;
const KIND_IPV4: u8 = 2;

/// Bytes of an Ethernet header, and offset of IPv4's addresses.
const ETHERNET: usize = 14;
const PLACES: core::ops::Range<usize> = 26..34;
const TCP: u8 = 6;

/// The hash of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hash {
    pub(super) kind: u8,
    pub(super) value: u32,
}

/// Returns the hash of a packet; `None` if RSS is off or does not support such packets.
pub(super) fn hash(registers: &Registers, packet: &[u8]) -> Option<Hash> {
    let selected = registers.read(MRQC);
    if selected & ENABLE_BITS != ENABLE || !registers.has(RXCSUM, IN_DESCRIPTOR) {
        return None;
    }
    let (header, addresses) = (packet.get(ETHERNET)?, packet.get(PLACES)?);
    if packet[12..ETHERNET] != [0x08, 0x00] || header >> 4 != 4 {
        return None;
    }
    let key: Vec<u8> = (0..10).flat_map(|word| registers.read(RSSRK + 4 * word).to_le_bytes()).collect();
    // A fragment has no ports of its own.
    let is_fragment = u16::from_be_bytes([packet[20], packet[21]]) & 0x3fff != 0;
    if packet[23] == TCP && !is_fragment && selected & TCP_IPV4 != 0 {
        let at = ETHERNET + 4 * usize::from(header & 0xf);
        let input = [addresses, packet.get(at..at + 4)?].concat();
        return Some(Hash { kind: KIND_TCP_IPV4, value: toeplitz(&key, &input) });
    }
    (selected & IPV4 != 0).then(|| Hash { kind: KIND_IPV4, value: toeplitz(&key, addresses) })
}

/// Returns the queue of a hash.
pub(super) fn queue(registers: &Registers, hash: Hash) -> usize {
    let entry = u64::from(hash.value & 0x7f);
    let entries = registers.read(RETA + (entry & !3)).to_le_bytes();
    usize::from(entries[(entry & 3) as usize] >> 7) % QUEUES
}

/// Toeplitz hash: the sum of the 32 bits of the key at each bit of the input that is set.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
    let window = |at: usize| (0..32).fold(0, |word, next| word << 1 | u32::from(bit(key, at + next)));
    (0..input.len() * 8).filter(|at| bit(input, *at) == 1).fold(0, |sum, at| sum ^ window(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key, and two inputs, of Microsoft's "Verifying the RSS hash calculation".
    #[test]
    fn the_hash_is_the_one_that_drivers_verify() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
            0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
            0xbe, 0xac, 0x01, 0xfa,
        ];
        // From 66.9.149.187:2794 to 161.142.100.80:1766.
        let mut input = vec![66, 9, 149, 187, 161, 142, 100, 80];
        assert_eq!(toeplitz(&key, &input), 0x323e_8fc2);
        input.extend([2794u16, 1766].map(u16::to_be_bytes).concat());
        assert_eq!(toeplitz(&key, &input), 0x51cc_c178);
    }
}
