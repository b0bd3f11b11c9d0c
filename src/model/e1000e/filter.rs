//! Which packets are received: 82574 datasheet, section 7.1.1.

use super::registers::{ADDRESSES, RCTL, Registers, STATIONS, VALID};

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

/// Returns whether a packet is received.
pub(super) fn accepts(registers: &Registers, packet: &[u8]) -> bool {
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
