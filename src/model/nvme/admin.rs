//! Commands of the admin queue: NVM Express base specification 2.0, section 5.

use super::command::{Command, Failure, Status};
use super::identify::{self, EVENTS, NAMESPACE};
use super::queue::{Completions, Submission};
use super::{Nvme, QUEUES, VECTORS, prp};
use crate::model::pci::Bus;

const DELETE_SUBMISSION: u8 = 0x00;
const CREATE_SUBMISSION: u8 = 0x01;
const GET_LOG_PAGE: u8 = 0x02;
const DELETE_COMPLETION: u8 = 0x04;
const CREATE_COMPLETION: u8 = 0x05;
const IDENTIFY: u8 = 0x06;
const ABORT: u8 = 0x08;
const SET_FEATURES: u8 = 0x09;
const GET_FEATURES: u8 = 0x0a;
const ASYNC_EVENT: u8 = 0x0c;

/// Feature identifier of the number of queues.
const NUMBER_OF_QUEUES: u32 = 0x07;
/// Features whose value the controller stores: arbitration, power, temperature, error recovery,
/// write cache, coalescing, vectors, atomicity, events.
const KEPT: [u32; 9] = [0x01, 0x02, 0x04, 0x05, 0x06, 0x08, 0x09, 0x0a, 0x0b];
/// Bit 31 of dword 10 of SET FEATURES: save the value.
const SAVE: u32 = 1 << 31;
/// Result of ABORT: nothing was aborted.
const NOT_ABORTED: u32 = 1;

/// The answer to a command: its result, or none yet.
pub(super) type Answer = Result<Option<u32>, Failure>;

impl Nvme {
    /// Carries out an admin command.
    pub(super) fn admin(&mut self, command: &Command, bus: &mut Bus<'_>) -> Answer {
        if !command.is_plain() {
            return Err(Status::INVALID_FIELD.into());
        }
        let done = |result: Result<(), Status>| Ok(result.map(|()| Some(0))?);
        match command.opcode {
            DELETE_SUBMISSION => done(self.delete_submission(command)),
            CREATE_SUBMISSION => done(self.create_submission(command)),
            GET_LOG_PAGE => self.log_page(command, bus),
            DELETE_COMPLETION => done(self.delete_completion(command)),
            CREATE_COMPLETION => done(self.create_completion(command, bus)),
            IDENTIFY => self.identify(command, bus),
            ABORT => Ok(Some(self.abort(command))),
            SET_FEATURES => Ok(Some(self.set_features(command)?)),
            GET_FEATURES => Ok(Some(self.get_features(command)?)),
            ASYNC_EVENT if self.events.len() >= EVENTS => Err(Status::EVENT_LIMIT.into()),
            ASYNC_EVENT => {
                self.events.push_back(command.id.get());
                Ok(None)
            }
            _ => Err(Status::INVALID_OPCODE.into()),
        }
    }

    /// Returns identifier and entries of a queue to create, at a valid address.
    fn new_queue(&self, command: &Command, taken: impl Fn(u16) -> bool) -> Result<(u16, u32), Status> {
        let (id, size) = (command.dword(10) as u16, command.dword(10) >> 16);
        if id == 0 || id > QUEUES || taken(id) {
            return Err(Status::QUEUE_ID);
        }
        if size == 0 || size > self.registers.max_entries() - 1 || !self.registers.entry_sizes_are_set() {
            return Err(Status::QUEUE_SIZE);
        }
        if !command.prp[0].get().is_multiple_of(self.registers.page()) {
            return Err(Status::PRP_OFFSET);
        }
        // Queues are physically contiguous (CAP.CQR).
        if command.dword(11) & 1 == 0 {
            return Err(Status::INVALID_FIELD);
        }
        Ok((id, size + 1))
    }

    fn create_completion(&mut self, command: &Command, bus: &Bus<'_>) -> Result<(), Status> {
        let (id, size) = self.new_queue(command, |id| self.completions.contains_key(&id))?;
        let vector = command.dword(11) >> 16;
        if vector >= if bus.messages() > 0 { VECTORS } else { 1 } {
            return Err(Status::VECTOR);
        }
        let interrupts = command.dword(11) & 2 != 0;
        let queue = Completions::new(command.prp[0].get(), size, interrupts.then_some(vector as u16));
        self.completions.insert(id, queue);
        Ok(())
    }

    fn create_submission(&mut self, command: &Command) -> Result<(), Status> {
        let completions = (command.dword(11) >> 16) as u16;
        if completions == 0 || !self.completions.contains_key(&completions) {
            return Err(Status::NO_COMPLETION_QUEUE);
        }
        let (id, size) = self.new_queue(command, |id| self.submissions.contains_key(&id))?;
        self.submissions.insert(id, Submission::new(command.prp[0].get(), size, completions));
        Ok(())
    }

    fn delete_submission(&mut self, command: &Command) -> Result<(), Status> {
        let id = command.dword(10) as u16;
        let queue = self.submissions.get_mut(&id).filter(|_| id != 0).ok_or(Status::QUEUE_ID)?;
        for dropped in core::mem::take(&mut queue.fetched) {
            self.complete(id, dropped.id.get(), Err(Status::ABORTED_QUEUE_DELETED));
        }
        self.submissions.remove(&id);
        Ok(())
    }

    fn delete_completion(&mut self, command: &Command) -> Result<(), Status> {
        let id = command.dword(10) as u16;
        if id == 0 || !self.completions.contains_key(&id) {
            return Err(Status::QUEUE_ID);
        }
        if self.submissions.values().any(|queue| queue.completions == id) {
            return Err(Status::QUEUE_DELETION);
        }
        self.completions.remove(&id);
        Ok(())
    }

    fn identify(&mut self, command: &Command, bus: &mut Bus<'_>) -> Answer {
        let number = command.namespace.get();
        let data = match command.dword(10) & 0xff {
            0 if number == NAMESPACE => identify::namespace(&self.namespace),
            0 | 3 if number != NAMESPACE => return Err(Status::INVALID_NAMESPACE.into()),
            1 => identify::controller(&self.serial),
            2 => identify::active(number),
            3 => identify::descriptors(),
            _ => return Err(Status::INVALID_FIELD.into()),
        };
        prp::write(command, &data, self.registers.page(), bus)?;
        Ok(Some(0))
    }

    fn log_page(&mut self, command: &Command, bus: &mut Bus<'_>) -> Answer {
        let log = match command.dword(10) & 0xff {
            1 => vec![0; 64 * 4],
            2 => {
                let (units, commands) = self.namespace.counts();
                identify::health(units, commands)
            }
            3 => identify::firmware(),
            _ => return Err(Status::LOG_PAGE.into()),
        };
        let dwords = u64::from(command.dword(10) >> 16 | command.dword(11) << 16) + 1;
        let offset = u64::from(command.dword(12)) | u64::from(command.dword(13)) << 32;
        if offset % 4 != 0 || offset >= log.len() as u64 {
            return Err(Status::INVALID_FIELD.into());
        }
        let rest = &log[offset as usize..];
        let len = (dwords * 4).min(rest.len() as u64) as usize;
        prp::write(command, &rest[..len], self.registers.page(), bus)?;
        Ok(Some(0))
    }

    /// Aborts a command that has not started.
    fn abort(&mut self, command: &Command) -> u32 {
        let (queue, id) = (command.dword(10) as u16, (command.dword(10) >> 16) as u16);
        // The admin queue only has the command that is being carried out, and an event request
        // never starts.
        let Some(submission) = self.submissions.get_mut(&queue).filter(|_| queue != 0) else { return NOT_ABORTED };
        let Some(at) = submission.fetched.iter().position(|waiting| waiting.id.get() == id) else { return NOT_ABORTED };
        submission.fetched.remove(at);
        self.complete(queue, id, Err(Status::ABORTED));
        0
    }

    fn set_features(&mut self, command: &Command) -> Result<u32, Status> {
        let (feature, value) = (command.dword(10) & 0xff, command.dword(11));
        if command.dword(10) & SAVE != 0 {
            return Err(Status::NOT_SAVEABLE);
        }
        match feature {
            NUMBER_OF_QUEUES if value & 0xffff == 0xffff || value >> 16 == 0xffff => Err(Status::INVALID_FIELD),
            // The admin queues already exist.
            NUMBER_OF_QUEUES if self.completions.len() > 1 => Err(Status::SEQUENCE),
            NUMBER_OF_QUEUES => Ok(number_of_queues()),
            _ if KEPT.contains(&feature) => {
                self.features.insert(feature, value);
                Ok(0)
            }
            _ => Err(Status::INVALID_FIELD),
        }
    }

    fn get_features(&mut self, command: &Command) -> Result<u32, Status> {
        let (feature, select) = (command.dword(10) & 0xff, command.dword(10) >> 8 & 7);
        match feature {
            _ if select > 1 => Err(Status::INVALID_FIELD),
            NUMBER_OF_QUEUES => Ok(number_of_queues()),
            _ if KEPT.contains(&feature) && select == 0 => Ok(self.features.get(&feature).copied().unwrap_or(0)),
            _ if KEPT.contains(&feature) => Ok(0),
            _ => Err(Status::INVALID_FIELD),
        }
    }
}

/// Numbers of submission and completion queues, minus one.
fn number_of_queues() -> u32 {
    u32::from(QUEUES - 1) << 16 | u32::from(QUEUES - 1)
}
