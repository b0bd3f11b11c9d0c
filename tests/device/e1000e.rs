//! The Ethernet controller of the model, register by register: what it sends, receives and drops.

use spapr_iommu::device::{Bar, Device, Endian, Interrupt, InterruptKind};
use spapr_iommu::dma::{Buffer, Dma, DmaMask};
use spapr_iommu::model::pci::DeviceFault;
use spapr_iommu::model::{E1000e, Model};
use spapr_iommu::permission::Permission;
use spapr_iommu::{Group, PciAddress};
use std::sync::Arc;
use std::time::Duration;

const ADDRESS: &str = "0000:00:00.0";
const STATION: [u8; 6] = [0x02, 0, 0, 0, 0, 0x17];

const CTRL: u64 = 0x00;
const STATUS: u64 = 0x08;
const ICR: u64 = 0xc0;
const ICS: u64 = 0xc8;
const IMS: u64 = 0xd0;
const IMC: u64 = 0xd8;
const EIAC: u64 = 0xdc;
const IVAR: u64 = 0xe4;
const RCTL: u64 = 0x100;
const TCTL: u64 = 0x400;
const RECEIVE: u64 = 0x2800;
const TRANSMIT: u64 = 0x3800;
const MISSED: u64 = 0x4010;
const RECEIVED: u64 = 0x4074;
const SENT: u64 = 0x4080;
const RFCTL: u64 = 0x5008;

// Offsets from the base of a ring.
const LENGTH: u64 = 0x08;
const HEAD: u64 = 0x10;
const TAIL: u64 = 0x18;
const ARBITRATION: u64 = 0x40;

/// Enable, long packets, loopback, broadcasts, strip the checksum.
const LISTENS: u32 = 1 << 1 | 1 << 5 | 1 << 6 | 1 << 15 | 1 << 26;
const STRIP: u32 = 1 << 26;
const LONG: u32 = 1 << 5;
/// Commands of a descriptor: last piece, report the status.
const LAST: u32 = 1 << 24;
const REPORT: u32 = 1 << 27;

const ENTRIES: usize = 8;
/// Bytes of a receive buffer.
const SLOT: usize = 2048;

/// A controller with one ring of each kind and all receive buffers posted.
struct Rig {
    bar: Bar,
    device: Device,
    transmit: Buffer<[u32; 4]>,
    receive: Buffer<[u32; 4]>,
    out: Buffer<u8>,
    back: Buffer<[u8; SLOT]>,
    model: Arc<Model>,
    tail: usize,
    head: usize,
}

impl Rig {
    fn new(preset: &str) -> Self {
        let model = Model::new(preset.parse().unwrap()).panic_on_violation();
        let model = Arc::new(model.with_device(Group(0), E1000e::new().with_address(STATION)).unwrap());
        let dma = Dma::new(model.clone());
        let device = dma.open(ADDRESS.parse().unwrap(), DmaMask::ALL).unwrap();
        let bar = device.bar(0, Endian::Little).unwrap();
        let rings = [(); 2].map(|()| dma.buffer(ENTRIES, Permission::ReadWrite).unwrap());
        let [transmit, receive] = rings;
        let out = dma.buffer(32 << 10, Permission::Read).unwrap();
        let back = dma.buffer(ENTRIES, Permission::Write).unwrap();
        device.start_dma().unwrap();
        let mut rig = Self { bar, device, transmit, receive, out, back, model, tail: 0, head: 0 };
        rig.start();
        rig
    }

    /// Sets up everything, as after a reset.
    fn start(&mut self) {
        (self.tail, self.head) = (0, 0);
        for (base, ring) in [(TRANSMIT, &self.transmit), (RECEIVE, &self.receive)] {
            self.write(base, ring.iova().0 as u32);
            self.write(base + 4, (ring.iova().0 >> 32) as u32);
            self.write(base + LENGTH, 16 * ENTRIES as u32);
        }
        for at in 0..ENTRIES {
            self.post(at);
        }
        self.write(RFCTL, 1 << 15);
        self.write(RCTL, LISTENS);
        self.write(TCTL, 1 << 1);
        self.write(RECEIVE + TAIL, ENTRIES as u32 - 1);
    }

    fn read(&self, offset: u64) -> u32 {
        self.bar.read(offset).unwrap()
    }

    fn write(&self, offset: u64, value: u32) {
        self.bar.write(offset, value).unwrap();
    }

    fn post(&self, at: usize) {
        let address = self.back.iova().0 + (at * SLOT) as u64;
        self.receive.write(at, [address as u32, (address >> 32) as u32, 0, 0]).unwrap();
    }

    /// Puts a descriptor into the transmit ring.
    fn push(&mut self, address: u64, rest: [u32; 2]) {
        self.transmit.write(self.tail, [address as u32, (address >> 32) as u32, rest[0], rest[1]]).unwrap();
        self.tail = (self.tail + 1) % ENTRIES;
    }

    fn ring(&self) {
        self.write(TRANSMIT + TAIL, self.tail as u32);
    }

    /// Sends a packet in pieces of these sizes.
    fn send(&mut self, packet: &[u8], piece: usize) {
        self.out.write_slice(0, packet).unwrap();
        let last = (packet.len() - 1) / piece;
        for (number, part) in packet.chunks(piece).enumerate() {
            let command = REPORT | if number == last { LAST } else { 0 };
            self.push(self.out.iova().0 + (number * piece) as u64, [part.len() as u32 | command, 0]);
        }
        self.ring();
    }

    /// Takes a packet from the receive ring.
    fn take(&mut self) -> Option<Vec<u8>> {
        let mut packet = Vec::new();
        loop {
            let [_, _, status, length] = self.receive.read(self.head).unwrap();
            if status & 1 == 0 {
                assert!(packet.is_empty(), "the rest of a packet is missing");
                return None;
            }
            packet.extend_from_slice(&self.back.read(self.head).unwrap()[..length as usize & 0xffff]);
            self.post(self.head);
            self.write(RECEIVE + TAIL, self.head as u32);
            self.head = (self.head + 1) % ENTRIES;
            if status & 2 != 0 {
                return Some(packet);
            }
        }
    }
}

/// Returns a packet to a station.
fn packet(to: [u8; 6], len: usize) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..len).map(|at| (at * 7) as u8).collect();
    packet[..6].copy_from_slice(&to);
    packet
}

#[test]
fn packets_arrive_in_pieces_and_in_several_buffers() {
    for preset in ["pseries-64k", "pseries-4k", "powernv9-64k", "powernv8-4k"] {
        let mut rig = Rig::new(preset);
        for (len, piece) in [(60, 60), (61, 10), (2048, 2048), (2049, 1000), (9014, 4096)] {
            let packet = packet(STATION, len);
            rig.send(&packet, piece);
            assert_eq!(rig.take().as_ref(), Some(&packet), "{len} in pieces of {piece} on {preset}");
        }
        assert_eq!(rig.take(), None);
        assert_eq!((rig.read(SENT), rig.read(RECEIVED), rig.read(MISSED)), (5, 5, 0));
        assert_eq!(rig.read(SENT), 0, "it was read");
    }
}

#[test]
fn a_status_is_written_where_it_is_asked_for() {
    let mut rig = Rig::new("powernv9");
    rig.out.write_slice(0, &packet(STATION, 64)).unwrap();
    let at = rig.out.iova().0;
    rig.push(at, [32, 0]);
    // Extended: data in type 1, with a length of 20 bits.
    rig.push(at + 32, [32 | LAST | REPORT | 1 << 29 | 1 << 20, 0]);
    rig.ring();
    let status = |at| rig.transmit.read(at).unwrap()[3];
    assert_eq!((status(0), status(1), rig.read(TRANSMIT + HEAD)), (0, 1, 2));
    assert_eq!(rig.take(), Some(packet(STATION, 64)));
}

#[test]
fn packets_for_others_and_packets_too_long_do_not_arrive() {
    let mut rig = Rig::new("powernv9");
    let (other, group, all) = ([2, 0, 0, 0, 0, 0x18], [3, 0, 0, 0, 0, 1], [0xff; 6]);
    let (unicast, multicast, broadcast) = (1 << 3, 1 << 4, 1 << 15);
    let cases = [
        (LISTENS, other, 60, false),
        (LISTENS | unicast, other, 60, true),
        (LISTENS, group, 60, false),
        (LISTENS | multicast, group, 60, true),
        (LISTENS, all, 60, true),
        (LISTENS & !broadcast, all, 60, false),
        (LISTENS & !LONG, STATION, 1518, true),
        (LISTENS & !LONG, STATION, 1519, false),
        (LISTENS & !2, STATION, 60, false),
        // Without loopback, it goes to the network.
        (LISTENS & !(1 << 6), STATION, 60, false),
        (LISTENS, STATION, 13, false),
    ];
    for (control, to, len, arrives) in cases {
        rig.write(RCTL, control);
        rig.send(&packet(to, len), len);
        assert_eq!(rig.take().is_some(), arrives, "{control:#x}, {len} bytes to {to:x?}");
    }
    // A second address.
    rig.write(RCTL, LISTENS);
    rig.write(0x5408, u32::from_le_bytes([2, 0, 0, 0]));
    rig.write(0x540c, u32::from_le_bytes([0, 0x18, 0, 0x80]));
    rig.send(&packet(other, 60), 60);
    assert!(rig.take().is_some());
}

#[test]
fn a_packet_is_padded_and_has_its_checksum_if_that_is_set() {
    let mut rig = Rig::new("powernv9");
    rig.write(TCTL, 1 << 1 | 1 << 3);
    rig.send(&packet(STATION, 20), 20);
    let mut expected = packet(STATION, 20);
    expected.resize(60, 0);
    assert_eq!(rig.take().as_ref(), Some(&expected));
    rig.write(RCTL, LISTENS & !STRIP);
    rig.send(&expected, 60);
    let arrived = rig.take().unwrap();
    assert_eq!((arrived.len(), &arrived[..60]), (64, &expected[..]));
    // A packet followed by its checksum has this remainder.
    let crc = arrived.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| crc >> 1 ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 })
    });
    assert_eq!(crc, 0xdebb_20e3);
}

#[test]
fn packets_without_buffers_are_missed() {
    let mut rig = Rig::new("powernv9");
    // Seven buffers are posted.
    for _ in 0..3 {
        rig.send(&packet(STATION, 5000), 5000);
    }
    assert_eq!((rig.read(MISSED), rig.read(RECEIVED)), (1, 2));
    assert_eq!(rig.read(ICR) & 1 << 6, 1 << 6);
    assert!(rig.take().is_some() && rig.take().is_some());
    rig.send(&packet(STATION, 5000), 5000);
    assert!(rig.take().is_some());
}

#[test]
fn what_the_model_does_not_do_is_not_sent() {
    let mut rig = Rig::new("powernv9");
    rig.out.write_slice(0, &packet(STATION, 64)).unwrap();
    let at = rig.out.iova().0;
    let (checksum, tag, extended) = (1 << 26, 1 << 30, 1 << 29);
    let data = extended | 1 << 20;
    // A checksum, a tag, segmentation, a checksum in the extended format.
    for (command, options) in [(checksum, 0), (tag, 0), (data | checksum, 0), (data, 1 << 8)] {
        rig.push(at, [64 | LAST | REPORT | command, options]);
        rig.ring();
    }
    // A context by itself is not served.
    rig.push(0, [extended | REPORT, 0]);
    rig.ring();
    assert_eq!((rig.read(TRANSMIT + HEAD), rig.read(SENT), rig.take()), (5, 0, None));
    // In pieces, more than any packet has.
    for last in [0, LAST] {
        rig.push(at, [16383 | last, 0]);
    }
    rig.ring();
    assert_eq!((rig.read(TRANSMIT + HEAD), rig.read(SENT), rig.take()), (7, 0, None));
    rig.send(&packet(STATION, 64), 64);
    assert!(rig.take().is_some());
}

#[test]
fn a_ring_is_served_when_all_that_it_needs_is_on() {
    let mut rig = Rig::new("powernv9");
    let waits = |rig: &mut Rig, off: (u64, u32), on: u32| {
        rig.write(off.0, off.1);
        rig.send(&packet(STATION, 60), 60);
        assert_eq!(rig.take(), None, "{off:#x?}");
        rig.write(off.0, on);
        assert!(rig.take().is_some(), "{off:#x?}");
    };
    waits(&mut rig, (TCTL, 0), 1 << 1);
    waits(&mut rig, (TRANSMIT + ARBITRATION, 3), 1 << 10 | 3);
    let control = rig.read(CTRL);
    assert_eq!(rig.read(STATUS) & (1 << 19 | 2), 1 << 19 | 2);
    rig.write(CTRL, control | 1 << 2);
    assert_eq!(rig.read(STATUS) & 1 << 19, 0, "it no longer accesses memory");
    waits(&mut rig, (CTRL, control | 1 << 2), control);
    rig.write(CTRL, control & !(1 << 6));
    assert_eq!(rig.read(STATUS) & 2, 0, "the link is down");
    // A tail outside of the ring is not served.
    rig.write(TRANSMIT + TAIL, ENTRIES as u32);
    assert_eq!(rig.read(TRANSMIT + HEAD), 3);
}

#[test]
fn stuck_packets_are_sent_when_it_is_over() {
    let mut rig = Rig::new("powernv9");
    let device: PciAddress = ADDRESS.parse().unwrap();
    rig.model.set_fault(device, Some(DeviceFault::StuckDma)).unwrap();
    rig.send(&packet(STATION, 100), 30);
    assert!(!rig.model.step() && rig.read(TRANSMIT + HEAD) == 0);
    rig.model.set_fault(device, None).unwrap();
    assert!(rig.model.step() && !rig.model.step());
    assert_eq!(rig.take(), Some(packet(STATION, 100)));
}

#[test]
fn a_ring_out_of_reach_stops_until_it_gets_a_new_tail() {
    let mut rig = Rig::new("pseries");
    rig.write(TRANSMIT + 4, 0x7000_0000);
    rig.send(&packet(STATION, 60), 60);
    rig.write(TRANSMIT + 4, (rig.transmit.iova().0 >> 32) as u32);
    assert_eq!((rig.model.violations().len(), rig.read(TRANSMIT + HEAD), rig.take()), (1, 0, None));
    rig.ring();
    assert!(rig.take().is_some());
    // The controller reports no refused writes.
    rig.receive.write(rig.head, [0x7000_0000, 0x7000_0000, 0, 0]).unwrap();
    rig.send(&packet(STATION, 60), 60);
    assert_eq!(rig.model.violations().len(), 2);
    assert_eq!(rig.receive.read(rig.head).unwrap()[2..], [7, 60]);
}

fn fired(interrupt: &Interrupt) -> bool {
    interrupt.wait(Some(Duration::ZERO)).unwrap()
}

#[test]
fn causes_interrupt_by_their_vector_once() {
    let mut rig = Rig::new("powernv9");
    let vectors = rig.device.enable_interrupts(InterruptKind::Msix, 3).unwrap();
    // Receive ring 0 has vector 1, transmit ring 0 vector 0, others vector 2.
    rig.write(IVAR, 9 | 8 << 8 | 10 << 16);
    rig.write(EIAC, 1 << 20);
    rig.write(IMS, 1 << 20 | 1 << 22 | 1 << 24);
    rig.send(&packet(STATION, 60), 60);
    assert_eq!(vectors.iter().map(fired).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(rig.read(IMS), 1 << 22 | 1 << 24, "EIAC");
    rig.send(&packet(STATION, 60), 60);
    assert!(!fired(&vectors[0]) && !fired(&vectors[1]), "one is pending still, one is forbidden");
    for _ in 0..2 {
        assert_eq!(rig.read(ICR) & 5 << 20, 5 << 20, "reading clears none");
    }
    rig.write(ICR, u32::MAX);
    assert_eq!(rig.read(ICR), 0);
    rig.write(ICS, 1 << 22 | 1 << 20);
    assert!(fired(&vectors[0]) && !fired(&vectors[1]));
    rig.write(IMS, 1 << 20);
    assert!(fired(&vectors[1]), "at once");
    rig.write(ICS, 1 << 24);
    assert!(fired(&vectors[2]));
}

#[test]
fn the_pin_is_held_until_the_causes_are_read() {
    let mut rig = Rig::new("powernv9");
    let pin = rig.device.enable_interrupts(InterruptKind::Intx, 1).unwrap().remove(0);
    rig.send(&packet(STATION, 60), 60);
    assert!(!fired(&pin));
    rig.write(IMS, 1 << 7);
    assert!(fired(&pin));
    pin.rearm().unwrap();
    assert!(fired(&pin));
    assert_eq!(rig.read(ICR) & (1 << 31 | 1 << 7 | 1), 1 << 31 | 1 << 7 | 1);
    pin.rearm().unwrap();
    assert!(!fired(&pin));
    rig.send(&packet(STATION, 60), 60);
    assert!(fired(&pin));
    rig.write(IMC, 1 << 7);
    pin.rearm().unwrap();
    assert!(!fired(&pin), "forbidden");
    drop(pin);

    let msi = rig.device.enable_interrupts(InterruptKind::Msi, 1).unwrap().remove(0);
    rig.write(IMS, 1 << 7);
    assert!(fired(&msi));
    rig.send(&packet(STATION, 60), 60);
    rig.write(IMS, 1);
    assert!(!fired(&msi), "something else is pending already");
    rig.read(ICR);
    rig.send(&packet(STATION, 60), 60);
    assert!(fired(&msi));
}

#[test]
fn a_reset_clears_all_but_the_address() {
    let mut rig = Rig::new("powernv9");
    for reset in [true, false] {
        rig.write(IMS, 1 << 7);
        rig.write(0x5400, 0);
        if reset {
            rig.write(CTRL, rig.read(CTRL) | 1 << 26);
        } else {
            rig.device.reset().unwrap();
        }
        assert_eq!([RCTL, TCTL, IMS, TRANSMIT, RECEIVE + LENGTH, RFCTL].map(|at| rig.read(at)), [0; 6]);
        assert_eq!(rig.read(0x5400).to_le_bytes(), STATION[..4]);
        assert_eq!(rig.read(0x5404).to_le_bytes(), [0, 0x17, 0, 0x80]);
        assert_eq!(rig.bar.read(0x5404), Ok(0x1700u16), "a part of a register");
        assert_eq!((rig.read(0x20), rig.read(0x1_fffc)), (0, 0), "no registers");
        rig.device.start_dma().unwrap();
        rig.start();
        rig.send(&packet(STATION, 60), 60);
        assert!(rig.take().is_some());
    }
}
