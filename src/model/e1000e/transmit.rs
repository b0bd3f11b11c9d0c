//! Sends packets: 82574 datasheet, section 7.2.

use super::E1000e;
use super::descriptor::{DONE, STATUS, Transmit};
use super::interrupts::{TRANSMIT_EMPTY, TRANSMITTED};
use super::receive::LONGEST;
use super::registers::{RCTL, SENT, TCTL};
use super::ring::Ring;
use crate::addr::Iova;
use crate::model::pci::{Bus, BusError};

/// TCTL: enable, pad short packets.
const ENABLE: u32 = 1 << 1;
const PAD: u32 = 1 << 3;
/// RCTL.LBM: sent packets are received.
const LOOPBACK_BITS: u32 = 3 << 6;
const LOOPBACK: u32 = 1 << 6;

/// Bytes of the shortest packet, without its checksum.
const SHORTEST: usize = 60;

/// The packet that a transmit ring is sending.
#[derive(Clone, Debug, Default)]
pub(super) struct Sender {
    packet: Vec<u8>,
    /// Whether it is not sent: a piece could not be read, or the packet requests an unsupported
    /// feature.
    dropped: bool,
    /// Whether a descriptor could not be read.
    pub(super) stopped: bool,
}

impl E1000e {
    /// Sends the packets of a ring. Returns whether there were any descriptors.
    pub(super) fn transmit(&mut self, queue: usize, bus: &mut Bus<'_>) -> bool {
        let ring = Ring::transmit(queue);
        let mut done = false;
        while self.is_sending(queue) && ring.available(&self.registers) > 0 {
            match self.transmit_piece(queue, bus) {
                Ok(()) => done = true,
                // It would be refused again.
                Err(BusError::Refused { .. }) => self.senders[queue].stopped = true,
                Err(_) => break,
            }
        }
        if done && ring.available(&self.registers) == 0 {
            self.causes.raise(TRANSMIT_EMPTY);
        }
        done
    }

    fn is_sending(&self, queue: usize) -> bool {
        let on = self.registers.has(TCTL, ENABLE) && self.registers.is_master();
        on && Ring::transmit(queue).takes_part(&self.registers) && !self.senders[queue].stopped
    }

    /// Takes one descriptor, and sends the packet if it is the last one.
    fn transmit_piece(&mut self, queue: usize, bus: &mut Bus<'_>) -> Result<(), BusError> {
        let ring = Ring::transmit(queue);
        let descriptor = Transmit::new(&ring.fetch(&self.registers, bus)?);
        let (address, len) = descriptor.piece.unwrap_or((0, 0));
        let mut data = vec![0; len.min(LONGEST + 1)];
        let readable = match if len > 0 { bus.read(Iova(address), &mut data) } else { Ok(()) } {
            Err(BusError::Refused { .. }) => false,
            read => read.map(|()| true)?,
        };
        if descriptor.reports {
            ring.write_back(&self.registers, STATUS, &[DONE], bus)?;
            self.causes.raise(TRANSMITTED[queue]);
        }
        ring.advance(&mut self.registers);
        let sender = &mut self.senders[queue];
        let fits = sender.packet.len() + data.len() <= LONGEST;
        sender.dropped |= !readable || !fits || descriptor.offloads;
        if fits {
            sender.packet.append(&mut data);
        }
        if descriptor.is_last {
            let (packet, dropped) = (core::mem::take(&mut sender.packet), core::mem::take(&mut sender.dropped));
            if !dropped {
                self.send(packet, bus);
            }
        }
        Ok(())
    }

    /// Sends a packet: to itself, or to a network without other stations.
    fn send(&mut self, mut packet: Vec<u8>, bus: &mut Bus<'_>) {
        if packet.len() < SHORTEST && self.registers.has(TCTL, PAD) {
            packet.resize(SHORTEST, 0);
        }
        self.registers.count(SENT);
        if self.registers.read(RCTL) & LOOPBACK_BITS == LOOPBACK {
            self.receive(&packet, bus);
        }
    }
}
