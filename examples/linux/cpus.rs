//! The guest's processors: which of them run, and how the guest ends.

use super::kvm::{Kick, Registers, VcpuFile};
use parking_lot::{Condvar, Mutex};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// 64-bit mode, machine checks, little endian; no address translation.
const MSR: u64 = 1 << 63 | 1 << 12 | 1;

/// `KVM_REG_PPC_LPCR_64`, with the way the guest takes interrupts: little endian (bit ILE), with
/// address translation on (two bits AIL).
const LPCR: u64 = 0x1030_0000_0000_00b5;
pub(crate) const LPCR_ILE: u64 = 0x0200_0000;
pub(crate) const LPCR_AIL: u64 = 0x0180_0000;
pub(crate) const LPCR_AIL_SHIFT: u32 = 23;

/// Areas of the guest's memory that the kernel writes for each processor, the last ones first:
/// `KVM_REG_PPC_VPA_DTL`, `_SLB` (address and length), `_ADDR`.
const AREAS: [u64; 2] = [0x1040_0000_0000_0084, 0x1040_0000_0000_0083];
const VPA: u64 = 0x1030_0000_0000_0082;

/// How the guest ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It powered off.
    Off,
    /// It requested a reboot.
    Reboot,
    /// It is ready to be saved.
    Ready,
    /// It took too long: where its processors were.
    Hung(String),
    /// It cannot go on.
    Failed(String),
}

enum State {
    Stopped,
    Starting(Box<Registers>),
    Running,
}

/// All processors.
pub(crate) struct Cpus {
    files: Vec<Arc<VcpuFile>>,
    shared: Mutex<Shared>,
    changed: Condvar,
}

struct Shared {
    states: Vec<State>,
    threads: Vec<Option<Kick>>,
    end: Option<End>,
}

impl Cpus {
    /// Creates them, all stopped.
    pub(crate) fn new(files: Vec<Arc<VcpuFile>>) -> Self {
        let states = files.iter().map(|_| State::Stopped).collect();
        let threads = vec![None; files.len()];
        Self { files, shared: Mutex::new(Shared { states, threads, end: None }), changed: Condvar::new() }
    }

    /// Starts a stopped processor with `pc`, r3 and r4. Returns whether it was stopped.
    pub(crate) fn start(&self, number: u32, pc: u64, r3: u64) -> bool {
        let mut registers = Registers { pc, msr: MSR, ..Default::default() };
        registers.gpr[3] = r3;
        self.resume(number, registers)
    }

    /// Starts a stopped processor with these registers. Returns whether it was stopped.
    pub(crate) fn resume(&self, number: u32, registers: Registers) -> bool {
        let shared = &mut *self.shared.lock();
        match shared.states.get_mut(number as usize) {
            Some(state @ State::Stopped) => *state = State::Starting(Box::new(registers)),
            _ => return false,
        }
        self.changed.notify_all();
        true
    }

    /// Returns the registers with which a processor continues; `None` if it is stopped.
    pub(crate) fn registers(&self, number: usize) -> io::Result<Option<Registers>> {
        match &self.shared.lock().states[number] {
            State::Stopped => Ok(None),
            State::Starting(registers) => Ok(Some(**registers)),
            State::Running => self.files[number].registers().map(Some),
        }
    }

    /// Stops the calling processor.
    pub(crate) fn stop(&self, number: usize) {
        self.shared.lock().states[number] = State::Stopped;
    }

    /// Returns whether a processor is stopped; `None` if that number does not exist.
    pub(crate) fn is_stopped(&self, number: u32) -> Option<bool> {
        let shared = self.shared.lock();
        shared.states.get(number as usize).map(|state| matches!(state, State::Stopped))
    }

    /// Returns whether the calling processor is to continue.
    pub(crate) fn runs(&self, number: usize) -> bool {
        let shared = self.shared.lock();
        shared.end.is_none() && !matches!(shared.states[number], State::Stopped)
    }

    /// Waits until the calling thread's processor starts, and returns its registers; `None` at the
    /// guest's end.
    pub(crate) fn wait_for_start(&self, number: usize) -> Option<Registers> {
        let shared = &mut self.shared.lock();
        loop {
            if shared.end.is_some() {
                return None;
            }
            if let State::Starting(registers) = &shared.states[number] {
                let registers = **registers;
                shared.states[number] = State::Running;
                return Some(registers);
            }
            self.changed.wait(shared);
        }
    }

    /// Notes that the calling thread runs a processor.
    pub(crate) fn enter(&self, number: usize) -> io::Result<()> {
        self.shared.lock().threads[number] = Some(Kick::this_thread()?);
        Ok(())
    }

    /// Ends the guest: all processors leave it.
    pub(crate) fn end(&self, end: End) {
        self.shared.lock().end.get_or_insert(end);
        self.changed.notify_all();
    }

    /// Waits a while for the end.
    pub(crate) fn wait_for_end(&self) -> Option<End> {
        let shared = &mut self.shared.lock();
        if shared.end.is_none() {
            self.changed.wait_for(shared, Duration::from_millis(100));
        }
        shared.end.clone()
    }

    /// Gets all threads out of the guest.
    pub(crate) fn kick(&self) {
        self.shared.lock().threads.iter().flatten().for_each(|thread| thread.kick());
    }

    /// Returns where all processors are; none may run.
    pub(crate) fn places(&self) -> String {
        let place = |(number, file): (usize, &Arc<VcpuFile>)| match file.registers() {
            Ok(Registers { pc, lr, msr, gpr, .. }) => {
                format!("processor {number}: pc {pc:x}, lr {lr:x}, msr {msr:x}, r1 {:x}, r3 {:x}", gpr[1], gpr[3])
            }
            Err(error) => format!("processor {number}: {error}"),
        };
        self.files.iter().enumerate().map(place).collect::<Vec<_>>().join("; ")
    }

    /// Changes bits of each processor's LPCR.
    pub(crate) fn set_lpcr(&self, mask: u64, value: u64) -> io::Result<()> {
        self.files.iter().try_for_each(|file| file.set(LPCR, file.get::<u64>(LPCR)? & !mask | value & mask))
    }

    /// Resets all processors to their initial state; none may run.
    pub(crate) fn reset(&self) -> io::Result<()> {
        for file in &self.files {
            // Otherwise the kernel would keep writing to the guest's areas.
            AREAS.iter().try_for_each(|area| file.set(*area, [0u64; 2]))?;
            file.set(VPA, 0u64)?;
        }
        self.set_lpcr(LPCR_ILE | LPCR_AIL, 0)?;
        let shared = &mut *self.shared.lock();
        shared.states.iter_mut().for_each(|state| *state = State::Stopped);
        shared.threads.iter_mut().for_each(|thread| *thread = None);
        shared.end = None;
        Ok(())
    }

    /// Returns each processor's registers, in order.
    pub(crate) fn files(&self) -> &[Arc<VcpuFile>] {
        &self.files
    }
}
