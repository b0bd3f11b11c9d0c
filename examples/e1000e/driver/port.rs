//! A port: sends and receives packets over its rings.

use super::receive::{ReceiveRing, Received};
use super::registers::Registers;
use super::transmit::TransmitRing;
use super::vectors::Vectors;
use super::{E1000eError, QUEUES, Setup, TIMEOUT, Wait};
use core::hint::spin_loop;
use spapr_iommu::addr::IovaRange;
use spapr_iommu::device::{Device, InterruptKind};
use spapr_iommu::dma::Dma;
use std::time::{Duration, Instant};

/// If no interrupt and no packet arrives for this long, a register is read, which detects a device
/// that is frozen or gone.
const DOUBT: Duration = Duration::from_secs(1);

/// A controller that is started, with two pairs of rings. When dropped, even while a panic unwinds,
/// it is stopped and taken off the bus before its rings and what they hold are freed.
#[derive(Debug)]
pub(crate) struct Port<'d, M> {
    registers: Registers,
    device: &'d Device,
    vectors: Vectors,
    transmit: Vec<TransmitRing<M>>,
    receive: Vec<ReceiveRing<M>>,
    address: [u8; 6],
    started: bool,
    /// When the last packet was received or reclaimed.
    alive: Instant,
}

impl<'d, M> Port<'d, M> {
    /// Resets a controller that `dma` has opened, and starts it.
    pub(crate) fn start(dma: &Dma, device: &'d Device, setup: &Setup) -> Result<Self, E1000eError> {
        // Descriptors are counted in cache lines of eight.
        if !(8..=4096).contains(&setup.entries) || !setup.entries.is_multiple_of(8) {
            return Err(E1000eError::Unsupported { what: "rings of other than a multiple of 8 and at most 4096" });
        }
        let registers = Registers::new(device)?;
        registers.reset()?;
        let transmit = (0..QUEUES).map(|index| TransmitRing::new(dma, index, setup.entries));
        let receive = (0..QUEUES).map(|index| ReceiveRing::new(dma, index, setup.entries));
        let mut port = Self {
            device,
            vectors: Vectors::none(),
            transmit: transmit.collect::<Result<_, _>>()?,
            receive: receive.collect::<Result<_, _>>()?,
            address: registers.address()?,
            started: false,
            alive: Instant::now(),
            registers,
        };
        port.transmit.iter().try_for_each(|ring| ring.set_up(&port.registers))?;
        port.receive.iter().try_for_each(|ring| ring.set_up(&port.registers))?;
        port.registers.spread()?;
        if setup.wait == Wait::Interrupts {
            port.vectors = Vectors::enable(device, &port.registers, setup.kind)?;
        }
        device.start_dma()?;
        port.started = true;
        port.registers.connect()?;
        port.registers.start(setup.loopback)?;
        if setup.wait == Wait::Interrupts {
            port.vectors.arm(&port.registers)?;
        }
        Ok(port)
    }

    /// Returns the station's address.
    pub(crate) fn address(&self) -> [u8; 6] {
        self.address
    }

    /// Returns the kind of interrupts in use; `None` for none.
    pub(crate) fn interrupt_kind(&self) -> Option<InterruptKind> {
        self.vectors.kind()
    }

    /// Returns the number of interrupts received, by vector.
    pub(crate) fn interrupts(&self) -> [u64; QUEUES] {
        self.vectors.counts()
    }

    /// Returns how many pieces of packets a transmit ring has room for.
    pub(crate) fn room_to_send(&self, queue: usize) -> usize {
        self.transmit[queue].room()
    }

    /// Returns how many buffers a receive ring has room for.
    pub(crate) fn room_to_post(&self, queue: usize) -> usize {
        self.receive[queue].room()
    }

    /// Writes a packet to a transmit ring; `held` keeps it mapped until [`Self::reclaim`] returns
    /// it. The controller sees it at the next [`Self::ring`].
    pub(crate) fn send(&mut self, queue: usize, pieces: &[IovaRange], held: M) -> Result<(), E1000eError> {
        self.transmit[queue].push(pieces, held)
    }

    /// Posts a buffer to a receive ring; `held` keeps it mapped until [`Self::receive`] returns it.
    /// The controller sees it at the next [`Self::ring`].
    pub(crate) fn post(&mut self, queue: usize, buffer: IovaRange, held: M) -> Result<(), E1000eError> {
        self.receive[queue].post(buffer, held)
    }

    /// Notifies the controller of new buffers, then of new packets.
    pub(crate) fn ring(&mut self) -> Result<(), E1000eError> {
        self.receive.iter_mut().try_for_each(|ring| ring.ring(&self.registers))?;
        self.transmit.iter_mut().try_for_each(|ring| ring.ring(&self.registers))
    }

    /// Returns the owner of a packet that the controller has read, which kept it mapped.
    pub(crate) fn reclaim(&mut self) -> Result<Option<M>, E1000eError> {
        for ring in &mut self.transmit {
            if let Some(held) = ring.reclaim()? {
                self.alive = Instant::now();
                return Ok(Some(held));
            }
        }
        Ok(None)
    }

    /// Returns a buffer that the controller has filled. Within a queue they come in order.
    pub(crate) fn receive(&mut self) -> Result<Option<Received<M>>, E1000eError> {
        for ring in &mut self.receive {
            if let Some(received) = ring.take()? {
                self.alive = Instant::now();
                return Ok(Some(received));
            }
        }
        Ok(None)
    }

    /// Waits until there may be something to reclaim or to receive. Call it only after taking
    /// everything that was there at its last return.
    pub(crate) fn wait(&mut self) -> Result<(), E1000eError> {
        if self.vectors.kind().is_some() {
            self.vectors.arm(&self.registers)?;
            if self.vectors.sleep(&self.registers, DOUBT)? {
                return Ok(());
            }
        } else {
            spin_loop();
        }
        if self.alive.elapsed() < DOUBT {
            return Ok(());
        }
        match self.registers.status()? {
            _ if self.alive.elapsed() < TIMEOUT => Ok(()),
            status => Err(E1000eError::NotInTime { what: "sending or receiving", timeout: TIMEOUT, status }),
        }
    }

    /// Stops the controller and takes it off the bus; what its rings hold is dropped.
    pub(crate) fn close(mut self) -> Result<(), E1000eError> {
        self.stop()
    }

    /// Takes all steps even if one fails; returns the first error.
    fn stop(&mut self) -> Result<(), E1000eError> {
        if !core::mem::take(&mut self.started) {
            return Ok(());
        }
        let reset = self.registers.reset();
        let off = self.device.stop_dma();
        reset?;
        Ok(off?)
    }
}

impl<M> Drop for Port<'_, M> {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(device = %self.device.address(), %error, "the controller was not stopped in order");
        }
    }
}
