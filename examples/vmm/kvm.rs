//! The part of KVM that this monitor needs: a VM, memory, one virtual processor.
//!
//! The numbers and structures are those of `include/uapi/linux/kvm.h` and
//! `arch/powerpc/include/uapi/asm/kvm.h`.

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::{ioctl_read, ioctl_write_int_bad, ioctl_write_ptr, request_code_none};
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

const KVM: u8 = 0xae;
/// Hypercalls exit to the monitor: `KVM_CAP_PPC_PAPR`.
const CAP_PPC_PAPR: u32 = 68;

const EXIT_MMIO: u32 = 6;
const EXIT_INTR: u32 = 10;
const EXIT_PAPR_HCALL: u32 = 19;

/// `struct kvm_userspace_memory_region`.
#[repr(C)]
pub(crate) struct MemoryRegion {
    slot: u32,
    flags: u32,
    guest: u64,
    size: u64,
    user: u64,
}

/// `struct kvm_enable_cap`.
#[repr(C)]
pub(crate) struct EnableCap {
    cap: u32,
    flags: u32,
    args: [u64; 4],
    pad: [u8; 64],
}

/// `struct kvm_regs` of POWER.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Registers {
    pub(crate) pc: u64,
    pub(crate) cr: u64,
    pub(crate) ctr: u64,
    pub(crate) lr: u64,
    pub(crate) xer: u64,
    pub(crate) msr: u64,
    pub(crate) srr0: u64,
    pub(crate) srr1: u64,
    pub(crate) pid: u64,
    pub(crate) sprg: [u64; 8],
    pub(crate) gpr: [u64; 32],
}

ioctl_write_int_bad!(create_vm, request_code_none!(KVM, 0x01));
ioctl_write_int_bad!(vcpu_mmap_size, request_code_none!(KVM, 0x04));
ioctl_write_int_bad!(create_vcpu, request_code_none!(KVM, 0x41));
ioctl_write_ptr!(set_memory, KVM, 0x46, MemoryRegion);
ioctl_write_int_bad!(run_vcpu, request_code_none!(KVM, 0x80));
ioctl_read!(get_registers, KVM, 0x81, Registers);
ioctl_write_ptr!(set_registers, KVM, 0x82, Registers);
ioctl_write_ptr!(enable_cap, KVM, 0xa3, EnableCap);

/// A virtual machine with one processor.
pub(crate) struct Vm {
    vm: OwnedFd,
    vcpu: OwnedFd,
    run: RunArea,
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

impl Vm {
    /// Creates a VM without memory, with one processor that makes hypercalls.
    pub(crate) fn new() -> io::Result<Self> {
        let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
        // SAFETY: these numbers take a value, and no address.
        let (vm, size) = unsafe { (create_vm(kvm.as_raw_fd(), 0)?, vcpu_mmap_size(kvm.as_raw_fd(), 0)?) };
        // SAFETY: the kernel has just opened this file for us.
        let vm = unsafe { OwnedFd::from_raw_fd(vm) };
        // SAFETY: takes a value.
        let vcpu = unsafe { create_vcpu(vm.as_raw_fd(), 0) }?;
        // SAFETY: as above.
        let vcpu = unsafe { OwnedFd::from_raw_fd(vcpu) };
        let cap = EnableCap { cap: CAP_PPC_PAPR, flags: 0, args: [0; 4], pad: [0; 64] };
        // SAFETY: the kernel reads a structure of that type.
        unsafe { enable_cap(vcpu.as_raw_fd(), &cap) }?;
        let run = RunArea::new(&vcpu, usize::try_from(size).unwrap_or_default())?;
        Ok(Self { vm, vcpu, run })
    }

    /// Returns the VM's file.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.vm.as_fd()
    }

    /// Gives the guest memory: `size` bytes at `user` of this process, at `guest` in the guest's
    /// addresses.
    ///
    /// # Safety
    /// The memory must belong to the guest until the VM is closed: nothing here holds a reference
    /// to it, and it stays mapped.
    pub(crate) unsafe fn add_memory(&self, slot: u32, guest: u64, user: u64, size: u64) -> io::Result<()> {
        let region = MemoryRegion { slot, flags: 0, guest, size, user };
        // SAFETY: the kernel reads a structure of that type; what it does with the memory is the
        // caller's promise.
        unsafe { set_memory(self.vm.as_raw_fd(), &region) }?;
        Ok(())
    }

    pub(crate) fn registers(&self) -> io::Result<Registers> {
        let mut registers = Registers::default();
        // SAFETY: the kernel writes a structure of that type.
        unsafe { get_registers(self.vcpu.as_raw_fd(), &mut registers) }?;
        Ok(registers)
    }

    pub(crate) fn set_registers(&mut self, registers: &Registers) -> io::Result<()> {
        // SAFETY: the kernel reads a structure of that type.
        unsafe { set_registers(self.vcpu.as_raw_fd(), registers) }?;
        Ok(())
    }

    /// Runs the processor until it needs the monitor.
    pub(crate) fn run(&mut self) -> io::Result<Exit> {
        // SAFETY: takes a value. Nobody holds a reference to what it changes, guest memory and the
        // run area.
        match unsafe { run_vcpu(self.vcpu.as_raw_fd(), 0) } {
            Ok(_) => Ok(self.run.exit()),
            Err(Errno::EINTR | Errno::EAGAIN) => Ok(Exit::Interrupted),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Answers a hypercall: the return code, and values from r4 on.
    pub(crate) fn answer_hcall(&mut self, ret: i64, args: [u64; 9]) {
        let mut words = [0; 11];
        words[1] = ret as u64;
        words[2..].copy_from_slice(&args);
        // The number stays as it is.
        (1..11).for_each(|index| self.run.set_word(index, words[index]));
    }

    /// Answers a load.
    pub(crate) fn answer_load(&mut self, data: &[u8]) {
        let mut bytes = [0; 8];
        bytes[..data.len()].copy_from_slice(data);
        self.run.set_word(1, u64::from_ne_bytes(bytes));
    }
}

/// `struct kvm_run`, which the kernel shares with us.
struct RunArea {
    base: NonNull<c_void>,
    len: NonZeroUsize,
}

/// Offset of `exit_reason`.
const EXIT_REASON: usize = 8;
/// Offset of the details of the reason.
const DETAILS: usize = 32;

impl RunArea {
    fn new(vcpu: &OwnedFd, len: usize) -> io::Result<Self> {
        let len = NonZeroUsize::new(len).filter(|len| len.get() >= DETAILS + 256).ok_or(Errno::EINVAL)?;
        // SAFETY: a new mapping where the kernel finds room replaces none.
        let base =
            unsafe { mmap(None, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED, vcpu, 0) }?;
        Ok(Self { base, len })
    }

    fn word(&self, index: usize) -> u64 {
        // SAFETY: at most DETAILS + 88 bytes into the area, aligned; the kernel writes it only
        // while the processor runs.
        unsafe { self.base.byte_add(DETAILS + 8 * index).cast::<u64>().read_volatile() }
    }

    fn set_word(&mut self, index: usize, value: u64) {
        // SAFETY: as in `word`.
        unsafe { self.base.byte_add(DETAILS + 8 * index).cast::<u64>().write_volatile(value) }
    }

    fn exit(&self) -> Exit {
        // SAFETY: as in `word`.
        let reason = unsafe { self.base.byte_add(EXIT_REASON).cast::<u32>().read_volatile() };
        match reason {
            EXIT_PAPR_HCALL => {
                Exit::Hcall { nr: self.word(0), args: std::array::from_fn(|index| self.word(2 + index)) }
            }
            EXIT_MMIO => {
                // Address, data, length (32 bits), direction (8 bits).
                let [len @ .., is_write, _, _, _] = self.word(2).to_ne_bytes();
                let len = (u32::from_ne_bytes(len) as usize).min(8);
                match is_write {
                    0 => Exit::Load { at: self.word(0), len },
                    _ => Exit::Store { at: self.word(0), data: self.word(1).to_ne_bytes()[..len].to_vec() },
                }
            }
            EXIT_INTR => Exit::Interrupted,
            other => Exit::Other(other),
        }
    }
}

impl Drop for RunArea {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; nothing refers to it any longer.
        let _ = unsafe { munmap(self.base, self.len.get()) };
    }
}
