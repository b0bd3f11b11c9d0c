//! Packets of all sizes with random content, and the check that each arrives once and unchanged.

use core::ops::RangeInclusive;
use fastrand::Rng;
use std::error::Error;

/// Bytes of the smallest packet, without its checksum.
pub(crate) const SMALLEST: usize = 60;
/// Bytes of Ethernet's and of IPv4's header.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
/// Offset of a packet's number.
const NUMBER: usize = ETHERNET + IPV4;

/// A packet that was sent and has not arrived yet.
#[derive(Clone, Copy, Debug)]
struct Expected {
    len: usize,
    crc32: u32,
}

/// The packets of a case.
#[derive(Debug)]
pub(crate) struct Packets {
    rng: Rng,
    /// All sizes, in random order.
    sizes: Vec<usize>,
    station: [u8; 6],
    /// Packets by number, until they arrive.
    expected: Vec<Option<Expected>>,
    packet: Vec<u8>,
    arrived: usize,
    bytes: u64,
    /// Checksum of all checksums, in the order of numbers.
    crc32: crc32fast::Hasher,
}

impl Packets {
    /// Creates packets of the given sizes, from and to a station.
    pub(crate) fn new(sizes: RangeInclusive<usize>, station: [u8; 6]) -> Self {
        let mut rng = Rng::new();
        let packet = vec![0; *sizes.end()];
        let mut sizes: Vec<usize> = sizes.collect();
        rng.shuffle(&mut sizes);
        let crc32 = crc32fast::Hasher::new();
        Self { rng, sizes, station, expected: Vec::new(), packet, arrived: 0, bytes: 0, crc32 }
    }

    /// Returns how many packets were made.
    pub(crate) fn made(&self) -> usize {
        self.expected.len()
    }

    /// Returns how many have arrived.
    pub(crate) fn arrived(&self) -> usize {
        self.arrived
    }

    /// Returns the bytes of the packets that have arrived.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns a checksum of all packets that were made.
    pub(crate) fn crc32(&self) -> u32 {
        self.crc32.clone().finalize()
    }

    /// Makes the next packet: IPv4 to a random address, which selects the receive queue.
    pub(crate) fn make(&mut self) -> &[u8] {
        let number = self.expected.len();
        let len = self.sizes[number % self.sizes.len()];
        let packet = &mut self.packet[..len];
        self.rng.fill(&mut packet[NUMBER..]);
        packet[..6].copy_from_slice(&self.station);
        packet[6..12].copy_from_slice(&self.station);
        packet[12..ETHERNET].copy_from_slice(&[0x08, 0x00]);
        let bytes = ((len - ETHERNET) as u16).to_be_bytes();
        let [a, b] = self.rng.u16(..).to_be_bytes();
        // 198.18.0.0/15 is for measurements, protocol 253 for experiments.
        let header = [0x45, 0, bytes[0], bytes[1], 0, 0, 0x40, 0, 64, 253, 0, 0, 198, 18, 0, 1, 198, 19, a, b];
        packet[ETHERNET..NUMBER].copy_from_slice(&header);
        let sum = checksum(&header).to_be_bytes();
        packet[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum);
        packet[NUMBER..NUMBER + 4].copy_from_slice(&(number as u32).to_be_bytes());
        let crc32 = crc32fast::hash(packet);
        self.crc32.update(&crc32.to_be_bytes());
        self.expected.push(Some(Expected { len, crc32 }));
        packet
    }

    /// Checks a packet that has arrived.
    pub(crate) fn check(&mut self, packet: &[u8]) -> Result<(), Box<dyn Error>> {
        let number = packet.get(NUMBER..NUMBER + 4).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
        let number = number.ok_or_else(|| format!("a packet of {} bytes arrived", packet.len()))?;
        let expected = self.expected.get_mut(number as usize).and_then(Option::take);
        let Expected { len, crc32 } = expected.ok_or_else(|| format!("packet {number} was not under way"))?;
        let arrived = crc32fast::hash(packet);
        if (packet.len(), arrived) != (len, crc32) {
            let found = format!("arrived with {} and CRC-32 {arrived:08x}", packet.len());
            return Err(format!("packet {number} was sent with {len} bytes and CRC-32 {crc32:08x}, {found}").into());
        }
        self.arrived += 1;
        self.bytes += len as u64;
        Ok(())
    }
}

/// Returns the checksum of a header whose checksum field is 0.
fn checksum(header: &[u8; IPV4]) -> u16 {
    let words = header.chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum = words.sum::<u32>();
    // Twice, as the first carry may cause another.
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
