//! Sends packets and receives them, many at a time.

use crate::buffers::{Buffers, Mapped, Maps};
use crate::driver::{BUFFER, Port, QUEUES, Received, Setup};
use crate::packets::Packets;
use spapr_iommu::device::Device;
use spapr_iommu::dma::Dma;
use spapr_iommu::permission::Permission;
use std::error::Error;

/// Descriptors of a packet that is sent, at most.
const PIECES: usize = 2;

/// What to send, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) setup: Setup,
    pub(crate) maps: Maps,
    /// Maximum number of packets in flight.
    pub(crate) depth: usize,
    /// Bytes of the largest packet.
    pub(crate) largest: usize,
}

/// A port, and memory for what it sends and receives.
#[derive(Debug)]
pub(crate) struct Traffic<'d> {
    // Dropped before the memory.
    pub(crate) port: Port<'d, Mapped>,
    out: Buffers,
    back: Buffers,
    depth: usize,
    /// The packet that each queue is receiving.
    partial: [Vec<u8>; QUEUES],
    /// Packets received, by queue.
    pub(crate) queues: [u64; QUEUES],
}

impl<'d> Traffic<'d> {
    /// Starts a port and fills its receive rings.
    pub(crate) fn start(dma: &Dma, device: &'d Device, plan: &Plan) -> Result<Self, Box<dyn Error>> {
        let entries = usize::from(plan.setup.entries);
        // All packets may arrive in one queue, which must not run out of buffers.
        let buffers = plan.largest.div_ceil(BUFFER as usize);
        let depth = plan.depth.clamp(1, ((entries - 1) / buffers).max(1));
        let slot = (plan.largest as u64).next_power_of_two().max(BUFFER);
        let out = Buffers::new(dma, depth, slot, plan.maps, Permission::Read)?;
        let back = Buffers::new(dma, QUEUES * entries, BUFFER, plan.maps, Permission::Write)?;
        let port = Port::start(dma, device, &plan.setup)?;
        let mut traffic = Self { port, out, back, depth, partial: Default::default(), queues: [0; QUEUES] };
        for queue in 0..QUEUES {
            while traffic.port.room_to_post(queue) > 0 {
                traffic.post(queue)?;
            }
        }
        traffic.port.ring()?;
        Ok(traffic)
    }

    /// Sends `count` packets, alternating between the queues, and checks that each arrives.
    pub(crate) fn run(&mut self, packets: &mut Packets, count: usize) -> Result<(), Box<dyn Error>> {
        loop {
            while packets.made() < count && packets.made() - packets.arrived() < self.depth {
                let queue = packets.made() % QUEUES;
                if self.port.room_to_send(queue) < PIECES {
                    break;
                }
                let Some(slot) = self.out.take() else { break };
                let packet = packets.make();
                self.out.write(slot, packet)?;
                let (mapped, pieces) = self.out.map(slot, packet.len() as u64)?;
                self.port.send(queue, &pieces, mapped)?;
            }
            self.port.ring()?;
            if packets.arrived() == count {
                return Ok(());
            }
            self.port.wait()?;
            while let Some(mapped) = self.port.reclaim()? {
                self.out.give_back(mapped);
            }
            while let Some(received) = self.port.receive()? {
                self.take(received, packets)?;
            }
        }
    }

    /// Takes a buffer with a packet or a part of one, and posts another in its place.
    fn take(&mut self, received: Received<Mapped>, packets: &mut Packets) -> Result<(), Box<dyn Error>> {
        let Received { queue, held, len, is_last } = received;
        // The packet is read once the controller no longer reaches it.
        let slot = self.back.give_back(held);
        let packet = &mut self.partial[queue];
        let before = packet.len();
        packet.resize(before + usize::from(len), 0);
        self.back.read(slot, &mut packet[before..])?;
        if is_last {
            packets.check(packet)?;
            packet.clear();
            self.queues[queue] += 1;
        }
        self.post(queue)
    }

    fn post(&mut self, queue: usize) -> Result<(), Box<dyn Error>> {
        let slot = self.back.take().ok_or("no buffer is left to receive into")?;
        let (mapped, pieces) = self.back.map(slot, BUFFER)?;
        let buffer = *pieces.first().ok_or("a buffer has no bus address")?;
        Ok(self.port.post(queue, buffer, mapped)?)
    }

    /// Stops the port. Everything mapped for it is unmapped.
    pub(crate) fn close(self) -> Result<(), Box<dyn Error>> {
        Ok(self.port.close()?)
    }
}
