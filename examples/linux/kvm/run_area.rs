//! The area in which the kernel reports why a processor exited, and finds the answer.

use super::vcpu::Exit;
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

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
