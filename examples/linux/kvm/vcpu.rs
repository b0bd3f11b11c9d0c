//! A virtual processor: its registers, and running it.

use super::ioctl::OneRegister;
use super::run::RunArea;
use super::{Registers, enable, ioctl, run};
use nix::errno::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

/// Hypercalls exit to the monitor: `KVM_CAP_PPC_PAPR`.
const CAP_PAPR: u32 = 68;

/// The registers of a processor, which others may change while it is stopped.
#[derive(Debug)]
pub(crate) struct VcpuFile(OwnedFd);

impl VcpuFile {
    pub(super) fn file(&self) -> &OwnedFd {
        &self.0
    }

    /// Returns a register, by its `KVM_REG_PPC_` number, which names its size.
    pub(crate) fn get<T: Register>(&self, id: u64) -> io::Result<T> {
        if T::SIZE != id & SIZE {
            return Err(Errno::EINVAL.into());
        }
        let mut value = T::default();
        let register = OneRegister { id, addr: (&raw mut value).expose_provenance() as u64 };
        // SAFETY: the kernel reads a structure of that type, and writes a value of that type's size
        // at its address: the size was compared.
        unsafe { ioctl::get_one_register(self.0.as_raw_fd(), &register) }?;
        Ok(value)
    }

    /// Sets a register.
    pub(crate) fn set<T: Register>(&self, id: u64, value: T) -> io::Result<()> {
        if T::SIZE != id & SIZE {
            return Err(Errno::EINVAL.into());
        }
        let register = OneRegister { id, addr: (&raw const value).expose_provenance() as u64 };
        // SAFETY: the kernel reads a structure of that type, and a value of that type's size at its
        // address: the size was compared.
        unsafe { ioctl::set_one_register(self.0.as_raw_fd(), &register) }?;
        Ok(())
    }

    /// Returns the general registers.
    pub(crate) fn registers(&self) -> io::Result<Registers> {
        let mut registers = Registers::default();
        // SAFETY: the kernel writes a structure of that type.
        unsafe { ioctl::get_registers(self.0.as_raw_fd(), &mut registers) }?;
        Ok(registers)
    }

    /// Sets the general registers.
    pub(crate) fn set_registers(&self, registers: &Registers) -> io::Result<()> {
        // SAFETY: the kernel reads a structure of that type.
        unsafe { ioctl::set_registers(self.0.as_raw_fd(), registers) }?;
        Ok(())
    }
}

/// A virtual processor, for the one thread that runs it.
pub(crate) struct Vcpu {
    file: Arc<VcpuFile>,
    run: RunArea,
    lost: u64,
}

/// Why the processor exited.
#[derive(Debug)]
pub(crate) enum Exit {
    /// A hypercall, with its number and arguments, r4 to r12.
    Hcall { nr: u64, args: [u64; 9] },
    /// A load from an address without memory.
    Load { at: u64, len: usize },
    /// A store to an address without memory.
    Store { at: u64, data: Vec<u8> },
    /// A signal; the processor must be run again.
    Interrupted,
    /// Anything else, by `KVM_EXIT_` number.
    Other(u32),
}

impl Vcpu {
    pub(super) fn new(file: OwnedFd, size: usize) -> io::Result<Self> {
        enable(&file, CAP_PAPR, [0; 4])?;
        let run = RunArea::new(&file, size)?;
        Ok(Self { file: Arc::new(VcpuFile(file)), run, lost: 0 })
    }

    /// Returns its registers.
    pub(crate) fn file(&self) -> &Arc<VcpuFile> {
        &self.file
    }

    /// Returns after how many exits floating-point registers of this process were lost.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Runs the processor until it needs the monitor.
    pub(crate) fn run(&mut self) -> io::Result<Exit> {
        let (result, lost) = run::run(self.file.0.as_fd());
        self.lost += u64::from(lost);
        match result {
            Ok(()) => Ok(self.run.exit()),
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(Exit::Interrupted),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Makes the kernel take the answer to the last exit, which it would otherwise do at the next
    /// run. Registers can be set afterwards.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.run.set_immediate_exit(1);
        let result = self.run();
        self.run.set_immediate_exit(0);
        result.map(drop)
    }

    /// Answers a hypercall: the return code, and values from r4 on.
    pub(crate) fn answer_hcall(&mut self, ret: i64, args: [u64; 9]) {
        // The number, which precedes both, does not change.
        self.run.set_word(1, ret.cast_unsigned());
        (2..).zip(args).for_each(|(index, word)| self.run.set_word(index, word));
    }

    /// Answers a load.
    pub(crate) fn answer_load(&mut self, data: &[u8]) {
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        self.run.set_word(1, u64::from_ne_bytes(bytes));
    }
}

/// The part of a register's number that gives its size.
const SIZE: u64 = 0xf0_0000_0000_0000;

/// Values of registers, by their size: `KVM_REG_SIZE_U32`, `_U64`, `_U128`.
pub(crate) trait Register: Default {
    const SIZE: u64;
}

impl Register for u32 {
    const SIZE: u64 = 0x20_0000_0000_0000;
}

impl Register for u64 {
    const SIZE: u64 = 0x30_0000_0000_0000;
}

impl Register for [u64; 2] {
    const SIZE: u64 = 0x40_0000_0000_0000;
}
