//! An NVMe controller with one namespace, after the NVM Express base specification 2.0 and the NVM
//! command set specification 1.0.

mod admin;
mod command;
mod identify;
mod namespace;
mod prp;
mod queue;
mod registers;

use super::pci::{Bus, BusError, Description, DeviceModel, Reset};
use command::{Completion, Failure, Status};
use core::fmt;
use namespace::Namespace;
use queue::{Completions, Submission};
use registers::{Change, DOORBELLS, Registers};
use std::collections::{BTreeMap, VecDeque};

/// Number of pairs of I/O queues.
const QUEUES: u16 = 64;
/// Number of vectors of MSI-X: one for each queue and one for the admin queue.
const VECTORS: u32 = 65;
const BAR_SIZE: u64 = 0x4000;
const MSIX_TABLE: u64 = 0x2000;
const MSIX_PENDING: u64 = 0x3000;
/// Bytes in a block unless [`Nvme::with_block_size`] says otherwise, as a power of two.
const BLOCK_SHIFT: u8 = 9;

/// Events reported by asynchronous event requests: an error in the use of registers.
const WRONG_DOORBELL: u32 = 0x00_00;
const WRONG_DOORBELL_VALUE: u32 = 0x01_00;
/// The log that describes an event of that kind: error information.
const ERROR_LOG: u32 = 1 << 16;

/// An NVMe controller, whose disk is memory of the program and survives resets.
///
/// It has what QEMU's controller shows to a driver: the same IDs, 64 pairs of I/O queues, MSI-X of
/// 65 vectors or a pin, pages of 4 to 64 KiB, commands of up to 512 KiB. Of the commands it has
/// those that every controller must have, IDENTIFY of controller, namespace, list and descriptors,
/// and FLUSH, READ and WRITE.
///
/// Commands are carried out in the write to their doorbell, in order, unless the controller is
/// [deferred](Self::deferred). Those whose DMA [sticks](super::pci::DeviceFault) stay unanswered
/// until a later access or step can complete them. If it cannot reach a queue it fails
/// (CSTS.CFS), until a driver disables it.
///
/// ```
/// use spapr_iommu::model::{Model, Nvme};
/// use spapr_iommu::{Dma, DmaMask, Group, device::Endian};
/// use std::sync::Arc;
///
/// let model = Model::new("powernv9-64k".parse()?).with_device(Group(0), Nvme::new(64 << 20))?;
/// let dma = Dma::new(Arc::new(model));
/// let device = dma.open("0000:00:00.0".parse()?, DmaMask::ALL)?;
/// let registers = device.bar(0, Endian::Little)?;
/// assert_eq!(registers.read::<u32>(0x08)?, 0x0001_0400, "version 1.4");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Nvme {
    serial: String,
    deferred: bool,
    namespace: Namespace,
    registers: Registers,
    /// By identifier; 0 is the admin queue.
    submissions: BTreeMap<u16, Submission>,
    completions: BTreeMap<u16, Completions>,
    features: BTreeMap<u32, u32>,
    /// Asynchronous event requests that are waiting for an event.
    events: VecDeque<u16>,
}

impl Nvme {
    /// Creates a controller with a disk of that many bytes, rounded down to whole blocks, all zero.
    pub fn new(bytes: u64) -> Self {
        Self {
            serial: "model".into(),
            deferred: false,
            namespace: Namespace::new(bytes, BLOCK_SHIFT),
            registers: Registers::default(),
            submissions: BTreeMap::new(),
            completions: BTreeMap::new(),
            features: BTreeMap::new(),
            events: VecDeque::new(),
        }
    }

    /// Sets the serial number, of which 20 characters are shown.
    pub fn with_serial(mut self, serial: &str) -> Self {
        self.serial = serial.into();
        self
    }

    /// Sets the bytes in a block, a power of two from 512 to 65536 (others are rounded down to
    /// one); 512 by default. The disk is empty afterwards.
    pub fn with_block_size(mut self, bytes: u32) -> Self {
        let shift = bytes.clamp(512, 65536).ilog2() as u8;
        self.namespace = Namespace::new(self.namespace.bytes(), shift);
        self
    }

    /// Leaves commands of I/O queues for [`Model::step`](super::Model::step), which carries out one
    /// of each queue. A driver that waits for them needs another thread that steps.
    pub fn deferred(mut self) -> Self {
        self.deferred = true;
        self
    }

    fn enable(&mut self) {
        let [(submissions, commands), (completions, entries)] = self.registers.admin_queues();
        self.submissions = [(0, Submission::new(submissions, commands, 0))].into();
        self.completions = [(0, Completions::new(completions, entries, Some(0)))].into();
    }

    fn disable(&mut self) {
        self.submissions.clear();
        self.completions.clear();
        self.features.clear();
        self.events.clear();
    }

    /// Handles a doorbell; invalid ones are reported as events.
    fn ring(&mut self, doorbell: u64, value: u32) {
        let Ok(id) = u16::try_from(doorbell / 2) else { return self.event(WRONG_DOORBELL) };
        if doorbell.is_multiple_of(2) {
            match self.submissions.get_mut(&id) {
                None => self.event(WRONG_DOORBELL),
                Some(queue) if value >= queue.size => self.event(WRONG_DOORBELL_VALUE),
                Some(queue) => queue.tail = value,
            }
        } else {
            match self.completions.get_mut(&id) {
                None => self.event(WRONG_DOORBELL),
                Some(queue) if value >= queue.size => self.event(WRONG_DOORBELL_VALUE),
                Some(queue) => queue.head = value,
            }
        }
    }

    /// Answers a waiting event request, if there is one.
    fn event(&mut self, event: u32) {
        if let Some(id) = self.events.pop_front() {
            self.complete(0, id, Ok(event | ERROR_LOG));
        }
    }

    /// Queues the completion of a command of a submission queue.
    fn complete(&mut self, queue: u16, command: u16, result: Result<u32, Status>) {
        let Some(submission) = self.submissions.get(&queue) else { return };
        let completion = Completion {
            result: result.unwrap_or(0).into(),
            reserved: 0.into(),
            head: (submission.head as u16).into(),
            queue: queue.into(),
            id: command.into(),
            status: (result.err().map_or(0, |status| status.0) << 1).into(),
        };
        if let Some(completions) = self.completions.get_mut(&submission.completions) {
            completions.push(completion);
        }
    }

    /// Fetches commands, carries them out and posts completions, as far as possible. `limit` is the
    /// number of commands of each I/O queue. Returns whether anything was done.
    fn work(&mut self, limit: usize, bus: &mut Bus<'_>) -> bool {
        let mut done = false;
        if self.registers.is_running() {
            // The admin queue first: it may delete others.
            let ids: Vec<u16> = self.submissions.keys().copied().collect();
            let worked = ids.into_iter().try_fold(false, |any, id| {
                let limit = if id == 0 { usize::MAX } else { limit };
                Ok::<_, BusError>(any | self.serve(id, limit, bus)?)
            });
            done = self.outcome(worked);
            let posted = self.completions.values_mut().try_fold(false, |any, queue| Ok(any | queue.post(bus)?));
            done |= self.outcome(posted);
        }
        let pin = bus.messages() == 0 && self.completions.values().any(|queue| self.interrupts(queue));
        bus.set_intx(pin);
        done
    }

    /// If a queue cannot be reached, the controller fails.
    fn outcome(&mut self, result: Result<bool, BusError>) -> bool {
        match result {
            Ok(done) => done,
            Err(BusError::Stuck) => false,
            Err(_) => {
                self.registers.fail();
                false
            }
        }
    }

    /// Returns whether a queue asserts the pin.
    fn interrupts(&self, queue: &Completions) -> bool {
        let masked = |vector: u16| self.registers.mask.checked_shr(vector.into()).unwrap_or(0) & 1 != 0;
        queue.has_news() && queue.vector.is_some_and(|vector| !masked(vector))
    }

    /// Fetches the commands of one submission queue and carries out up to `limit` of them.
    fn serve(&mut self, id: u16, limit: usize, bus: &mut Bus<'_>) -> Result<bool, BusError> {
        let mut count = 0;
        // A command of the admin queue may have deleted it.
        while let Some(queue) = self.submissions.get_mut(&id) {
            queue.fetch(bus)?;
            let blocked = self.completions.get(&queue.completions).is_none_or(Completions::is_blocked);
            let Some(command) = queue.fetched.front().copied().filter(|_| count < limit && !blocked) else { break };
            let page = self.registers.page();
            let answer = match id {
                0 => self.admin(&command, bus),
                _ => self.namespace.run(&command, page, bus).map(|()| Some(0)),
            };
            match answer {
                // An event request waits.
                Ok(None) => {}
                Ok(Some(result)) => self.complete(id, command.id.get(), Ok(result)),
                Err(Failure::Status(status)) => self.complete(id, command.id.get(), Err(status)),
                Err(Failure::Stuck) => return Err(BusError::Stuck),
            }
            if let Some(queue) = self.submissions.get_mut(&id) {
                queue.fetched.pop_front();
            }
            count += 1;
        }
        Ok(count > 0)
    }
}

impl DeviceModel for Nvme {
    fn description(&self) -> Description {
        let description = Description::new(identify::VENDOR, identify::DEVICE).class(0x01_0802).revision(2);
        let description = description.subsystem(identify::SUBSYSTEM.0, identify::SUBSYSTEM.1);
        let description = description.bar64(0, BAR_SIZE).intx().msix(VECTORS, 0, MSIX_TABLE, MSIX_PENDING).express();
        // Power management: version 3, without any state that wakes.
        description.capability(0x01, &[3, 0, 0, 0, 0, 0], &[0, 0, 3])
    }

    fn read_bar(&mut self, _bar: u32, offset: u64, data: &mut [u8], bus: &mut Bus<'_>) {
        self.work(if self.deferred { 0 } else { usize::MAX }, bus);
        self.registers.read(offset, data);
    }

    fn write_bar(&mut self, _bar: u32, offset: u64, data: &[u8], bus: &mut Bus<'_>) {
        // Registers are written in 32 bits, or 64 where they are that wide.
        for (at, value) in (offset..).step_by(4).zip(data.as_chunks::<4>().0) {
            let value = u32::from_le_bytes(*value);
            if at >= DOORBELLS {
                if data.len() == 4 && self.registers.is_running() {
                    self.ring((at - DOORBELLS) / 4, value);
                }
                continue;
            }
            match self.registers.write(at, value) {
                Change::Enable => self.enable(),
                Change::Disable => self.disable(),
                Change::None => {}
            }
        }
        self.work(if self.deferred { 0 } else { usize::MAX }, bus);
    }

    fn step(&mut self, bus: &mut Bus<'_>) -> bool {
        self.work(if self.deferred { 1 } else { usize::MAX }, bus)
    }

    fn reset(&mut self, _reset: Reset) {
        self.registers.reset();
        self.disable();
    }

    fn fork(&self) -> Box<dyn DeviceModel> {
        Box::new(self.clone())
    }
}

/// Without the disk's contents and the commands under way.
impl fmt::Debug for Nvme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (blocks, queues) = (self.namespace.blocks(), self.submissions.len());
        write!(f, "Nvme({:?}, {blocks} blocks, {queues} queues)", self.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_shows_itself_in_a_line() {
        let mut nvme = Nvme::new(1 << 20);
        let queue = |id| (id, Submission::new(u64::MAX, 1024, id));
        nvme.submissions.extend((0..64).map(queue));
        assert_eq!(format!("{nvme:#?}"), "Nvme(\"model\", 2048 blocks, 64 queues)");
    }
}
