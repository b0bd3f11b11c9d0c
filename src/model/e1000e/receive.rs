//! Receives packets: 82574 datasheet, section 7.1.

use super::descriptor::{address, received, received_legacy};
use super::interrupts::{FEW_BUFFERS, NO_BUFFER, RECEIVED as ARRIVED};
use super::registers::{ADDRESSES, MISSED, RCTL, RECEIVED, RFCTL, Registers, STATIONS, VALID};
use super::ring::Ring;
use super::{E1000e, rss};
use crate::addr::Iova;
use crate::model::pci::{Bus, BusError};

/// RCTL: enable, all unicast packets, all multicast packets, long packets, broadcasts.
const ENABLE: u32 = 1 << 1;
const UNICAST: u32 = 1 << 3;
const MULTICAST: u32 = 1 << 4;
const LONG: u32 = 1 << 5;
const BROADCAST: u32 = 1 << 15;

/// Bytes of the longest packet with [`LONG`], and without it, without its checksum.
pub(super) const LONGEST: usize = 16384 - 4;
const ORDINARY: usize = 1522 - 4;
/// Bytes of an Ethernet header.
const HEADER: usize = 14;
/// RCTL: strip the checksum.
const STRIP: u32 = 1 << 26;
/// RFCTL: extended descriptors.
const EXTENDED: u32 = 1 << 15;

impl E1000e {
    /// Puts a packet into buffers, if it passes the filters.
    pub(super) fn receive(&mut self, packet: &[u8], bus: &mut Bus<'_>) {
        let control = self.registers.read(RCTL);
        if !accepts(&self.registers, packet) {
            return;
        }
        let hash = rss::hash(&self.registers, packet);
        let queue = hash.map_or(0, |hash| rss::queue(&self.registers, hash));
        let mut data = packet.to_vec();
        if control & STRIP == 0 {
            data.extend(fcs(packet).to_le_bytes());
        }
        let (ring, size) = (Ring::receive(queue), buffer_size(control));
        if (ring.available(&self.registers) as usize) < data.len().div_ceil(size) {
            self.registers.count(MISSED);
            return self.causes.raise(NO_BUFFER);
        }
        let last = (data.len() - 1) / size;
        for (number, part) in data.chunks(size).enumerate() {
            if self.fill(queue, part, number == last, hash, bus).is_err() {
                // The rest is lost.
                return;
            }
        }
        self.registers.count(RECEIVED);
        self.causes.raise(ARRIVED[queue]);
        // RDMTS: half of the ring, a quarter, an eighth.
        let few = ring.entries(&self.registers) >> (1 + (control >> 8 & 3));
        if ring.available(&self.registers) <= few {
            self.causes.raise(FEW_BUFFERS);
        }
    }

    /// Fills the next buffer of a queue.
    fn fill(
        &mut self,
        queue: usize,
        part: &[u8],
        is_last: bool,
        hash: Option<rss::Hash>,
        bus: &mut Bus<'_>,
    ) -> Result<(), BusError> {
        let ring = Ring::receive(queue);
        let descriptor = ring.fetch(&self.registers, bus)?;
        match bus.write(Iova(address(&descriptor)), part) {
            // Nothing answers a write on the bus, so the controller does not learn that one was
            // refused.
            Ok(()) | Err(BusError::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
        let length = part.len() as u16;
        let done = if self.registers.has(RFCTL, EXTENDED) {
            received(length, is_last, queue, hash)
        } else {
            received_legacy(&descriptor, length, is_last)
        };
        ring.write_back(&self.registers, 0, &done, bus)?;
        ring.advance(&mut self.registers);
        Ok(())
    }
}

/// Returns whether the filters let a packet through (section 7.1.1).
fn accepts(registers: &Registers, packet: &[u8]) -> bool {
    let control = registers.read(RCTL);
    let longest = if control & LONG != 0 { LONGEST } else { ORDINARY };
    if control & ENABLE == 0 || !registers.is_master() || !(HEADER..=longest).contains(&packet.len()) {
        return false;
    }
    let to = &packet[..6];
    let any = match to[0] & 1 {
        0 => control & UNICAST != 0,
        _ => control & MULTICAST != 0 || control & BROADCAST != 0 && to == [0xff; 6],
    };
    any || (0..STATIONS).any(|number| {
        let [low, high] = [0, 4].map(|half| registers.read(ADDRESSES + 8 * number + half));
        let [a, b, c, d] = low.to_le_bytes();
        let [e, f, ..] = high.to_le_bytes();
        high & VALID != 0 && to == [a, b, c, d, e, f]
    })
}

/// Returns the bytes of a buffer, RCTL.BSIZE and RCTL.BSEX.
fn buffer_size(control: u32) -> usize {
    let (size, extended) = (control >> 16 & 3, control & 1 << 25 != 0);
    // The first extended size is reserved.
    if extended && size != 0 { 32768 >> size } else { 2048 >> size }
}

/// Returns the checksum at the end of an Ethernet packet: CRC-32.
fn fcs(packet: &[u8]) -> u32 {
    let byte = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 })
    };
    !packet.iter().fold(u32::MAX, byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_sizes_of_the_datasheet() {
        let sizes = |extended: u32| [0, 1, 2, 3].map(|size| buffer_size(size << 16 | extended << 25));
        assert_eq!((sizes(0), sizes(1)[1..].to_vec()), ([2048, 1024, 512, 256], vec![16384, 8192, 4096]));
    }

    #[test]
    fn the_checksum_is_the_one_of_ethernet() {
        // The check value of CRC-32/ISO-HDLC.
        assert_eq!(fcs(b"123456789"), 0xcbf4_3926);
    }
}
