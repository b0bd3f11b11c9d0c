//! `KVM_RUN`: the call, the area in which the kernel reports why a processor exited, and a signal
//! that interrupts the call.
//!
//! After the call, the floating-point and vector registers of this thread may hold anything. They
//! should not: a system call keeps f14 to f31 and v20 to v31 of its caller (OpenPOWER ELFv2 ABI).
//! But Linux leaves the guest's in a thread that was switched out within the call, as docs/guest.md
//! explains. A compiler that keeps a value in f31 over the loop that runs a vCPU then computes with
//! the guest's. So the call is made here, in assembly that names them as lost, and it checks
//! whether they were.

use super::vcpu::Exit;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::pthread::{Pthread, pthread_kill, pthread_self};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

/// Runs the vCPU. Returns how the run ended, and whether the kernel lost floating-point registers.
#[cfg(target_arch = "powerpc64")]
pub(super) fn run(vcpu: BorrowedFd<'_>) -> (Result<(), Errno>, bool) {
    /// Number of `ioctl`.
    const IOCTL: u64 = 54;
    /// A value that no guest has by chance.
    const MARK: u64 = 0x4b56_4d5f_5255_4e21;
    let marks: [u64; 18] = std::array::from_fn(|index| MARK + index as u64);
    let mut found = [0u64; 18];
    let mut result = vcpu.as_raw_fd() as u64;
    // SAFETY: the kernel changes the guest's memory and the run area, to which no reference exists.
    // The assembly reads `marks` and writes `found`; registers that the kernel may lose are listed.
    unsafe {
        core::arch::asm!(
            "lfd 14, 0(14)", "lfd 15, 8(14)", "lfd 16, 16(14)", "lfd 17, 24(14)", "lfd 18, 32(14)",
            "lfd 19, 40(14)", "lfd 20, 48(14)", "lfd 21, 56(14)", "lfd 22, 64(14)", "lfd 23, 72(14)",
            "lfd 24, 80(14)", "lfd 25, 88(14)", "lfd 26, 96(14)", "lfd 27, 104(14)", "lfd 28, 112(14)",
            "lfd 29, 120(14)", "lfd 30, 128(14)", "lfd 31, 136(14)",
            "sc",
            // The summary overflow bit says that r3 is an error number.
            "bns+ 2f",
            "neg 3, 3",
            "2:",
            "stfd 14, 0(15)", "stfd 15, 8(15)", "stfd 16, 16(15)", "stfd 17, 24(15)", "stfd 18, 32(15)",
            "stfd 19, 40(15)", "stfd 20, 48(15)", "stfd 21, 56(15)", "stfd 22, 64(15)", "stfd 23, 72(15)",
            "stfd 24, 80(15)", "stfd 25, 88(15)", "stfd 26, 96(15)", "stfd 27, 104(15)", "stfd 28, 112(15)",
            "stfd 29, 120(15)", "stfd 30, 128(15)", "stfd 31, 136(15)",
            inout("r0") IOCTL => _, inout("r3") result, inout("r4") super::ioctl::RUN => _, inout("r5") 0u64 => _,
            in("r14") marks.as_ptr(), in("r15") found.as_mut_ptr(),
            lateout("r6") _, lateout("r7") _, lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
            lateout("r12") _, lateout("ctr") _, lateout("xer") _, lateout("cr0") _, lateout("cr1") _,
            lateout("cr5") _, lateout("cr6") _, lateout("cr7") _,
            out("f0") _, out("f1") _, out("f2") _, out("f3") _, out("f4") _, out("f5") _, out("f6") _, out("f7") _,
            out("f8") _, out("f9") _, out("f10") _, out("f11") _, out("f12") _, out("f13") _, out("f14") _,
            out("f15") _, out("f16") _, out("f17") _, out("f18") _, out("f19") _, out("f20") _, out("f21") _,
            out("f22") _, out("f23") _, out("f24") _, out("f25") _, out("f26") _, out("f27") _, out("f28") _,
            out("f29") _, out("f30") _, out("f31") _,
            out("v0") _, out("v1") _, out("v2") _, out("v3") _, out("v4") _, out("v5") _, out("v6") _, out("v7") _,
            out("v8") _, out("v9") _, out("v10") _, out("v11") _, out("v12") _, out("v13") _, out("v14") _,
            out("v15") _, out("v16") _, out("v17") _, out("v18") _, out("v19") _, out("v20") _, out("v21") _,
            out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _, out("v27") _, out("v28") _,
            out("v29") _, out("v30") _, out("v31") _,
        );
    }
    let result = match result as i64 {
        0.. => Ok(()),
        errno => Err(Errno::from_raw(errno.unsigned_abs() as i32)),
    };
    (result, marks != found)
}

/// Other architectures have no such guests.
#[cfg(not(target_arch = "powerpc64"))]
pub(super) fn run(vcpu: BorrowedFd<'_>) -> (Result<(), Errno>, bool) {
    let _ = (vcpu.as_raw_fd(), super::ioctl::RUN);
    (Err(Errno::ENOSYS), false)
}

const EXIT_MMIO: u32 = 6;
const EXIT_INTR: u32 = 10;
const EXIT_PAPR_HCALL: u32 = 19;

/// `struct kvm_run`, which the kernel shares with us.
pub(super) struct RunArea {
    base: NonNull<c_void>,
    len: NonZeroUsize,
}

// SAFETY: the mapping belongs to this object, whichever thread has it.
unsafe impl Send for RunArea {}

/// Offset of `immediate_exit`.
const IMMEDIATE_EXIT: usize = 1;
/// Offset of `exit_reason`.
const EXIT_REASON: usize = 8;
/// Offset of the details of the reason.
const DETAILS: usize = 32;

impl RunArea {
    pub(super) fn new(vcpu: &OwnedFd, len: usize) -> io::Result<Self> {
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

    pub(super) fn set_word(&mut self, index: usize, value: u64) {
        // SAFETY: as in `word`.
        unsafe { self.base.byte_add(DETAILS + 8 * index).cast::<u64>().write_volatile(value) }
    }

    pub(super) fn set_immediate_exit(&mut self, value: u8) {
        // SAFETY: in the area; the kernel reads it only while the processor runs.
        unsafe { self.base.byte_add(IMMEDIATE_EXIT).cast::<u8>().write_volatile(value) }
    }

    pub(super) fn exit(&self) -> Exit {
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

/// A thread that runs a vCPU, which others can interrupt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kick(Pthread);

/// The signal only interrupts.
extern "C" fn ignore(_: nix::libc::c_int) {}

impl Kick {
    /// Returns the calling thread, which can be interrupted from now on.
    pub(crate) fn this_thread() -> io::Result<Self> {
        let action = SigAction::new(SigHandler::Handler(ignore), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, so it is async-signal-safe.
        unsafe { sigaction(Signal::SIGUSR1, &action) }?;
        Ok(Self(pthread_self()))
    }

    /// Interrupts the thread, which must not have been joined. It may be about to enter `KVM_RUN`,
    /// so callers repeat this until it has noticed.
    pub(crate) fn kick(self) {
        let _ = pthread_kill(self.0, Signal::SIGUSR1);
    }
}
