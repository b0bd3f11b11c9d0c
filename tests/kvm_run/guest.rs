//! A guest that loops or sleeps for a while and makes a hypercall, again and again; KVM by its
//! ioctls alone.

#![allow(unsafe_code, reason = "the calls of KVM, and assembly")]

use libc::{MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, c_ulong, mmap};
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::null_mut;

/// `include/uapi/linux/kvm.h`, as POWER encodes directions: none, write.
const CREATE_VM: c_ulong = 0x2000_ae01;
const VCPU_MMAP_SIZE: c_ulong = 0x2000_ae04;
const CREATE_VCPU: c_ulong = 0x2000_ae41;
const SET_MEMORY: c_ulong = 0x8020_ae46;
const RUN: u64 = 0x2000_ae80;
const SET_REGISTERS: c_ulong = 0x8000_ae82 | (REGISTERS as c_ulong * 8) << 16;
const ENABLE_CAP: c_ulong = 0x8068_aea3;
const SET_ONE_REGISTER: c_ulong = 0x8010_aeac;

/// Words of `struct kvm_regs`: the MSR and r4.
const REGISTERS: usize = 49;
const MSR: usize = 5;
const GPR4: usize = 21;
/// 64-bit mode, big endian.
const MODE: u64 = 1 << 63;
const CAP_PAPR: u64 = 68;
/// `KVM_REG_PPC_FPR31`, `KVM_REG_PPC_VR31`.
const F31: u64 = 0x1030_0000_0000_003f;
const V31: u64 = 0x1040_0000_0000_005f;
/// `KVM_EXIT_PAPR_HCALL`, the place of the exit reason, and r4 of a hypercall.
const EXIT_HCALL: u32 = 19;
const REASON: usize = 8;
const R4: usize = 48;

const RAM: usize = 1 << 20;
/// `mtctr r4; bdnz .; cmpdi r5,0; bne 0x20`: loops r4 times. Then, as it goes on at 0x900, where
/// `lis r3,0; ori r3,r3,0xf100; sc 1; ba 0` makes a hypercall that nobody knows. It answers with
/// the next r4 and r5.
const LOOPS: [u32; 5] = [0x7c89_03a6, 0x4200_0000, 0x2c25_0000, 0x4082_0014, 0x4800_0902];
/// `lis r6,0x10; mtdec r6; li r3,0xe0; sc 1; b .`: sleeps (`H_CEDE`) until the decrementer
/// interrupts, some milliseconds.
const SLEEPS: [u32; 5] = [0x3cc0_0010, 0x7cd6_03a6, 0x3860_00e0, 0x4400_0022, 0x4800_0000];
const CALLS: [u32; 4] = [0x3c60_0000, 0x6063_f100, 0x4400_0022, 0x4800_0002];
/// Their addresses: the start, and the decrementer's vector.
const SLEEP_AT: usize = 0x20;
const DECREMENTER: usize = 0x900;

/// What the guest does before it makes the call again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    Loops(u64),
    Sleep,
}

/// Contents of v31 and f31.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    v31: [u64; 2],
    f31: u64,
}

impl Marks {
    pub(crate) const fn of(value: u64) -> Self {
        Self { v31: [value, value + 1], f31: value + 2 }
    }
}

/// A guest.
pub(crate) struct Guest {
    vcpu: OwnedFd,
    _vm: OwnedFd,
    /// `struct kvm_run`.
    area: *mut u8,
}

impl Guest {
    /// Creates a guest with `marks` in its registers.
    pub(crate) fn new(marks: &Marks) -> Result<Self> {
        let kvm = File::options().read(true).write(true).open("/dev/kvm")?;
        // SAFETY: these calls take values, and structures of the sizes their numbers have. The
        // guest's memory and the area are mappings of their own, which stay until the end.
        unsafe {
            let vm = OwnedFd::from_raw_fd(call(kvm.as_raw_fd(), CREATE_VM, 0)?);
            let vcpu = OwnedFd::from_raw_fd(call(vm.as_raw_fd(), CREATE_VCPU, 0)?);
            let ram = mapped(mmap(null_mut(), RAM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))?;
            ram.cast::<[u32; 5]>().write(LOOPS.map(u32::to_be));
            ram.add(SLEEP_AT).cast::<[u32; 5]>().write(SLEEPS.map(u32::to_be));
            ram.add(DECREMENTER).cast::<[u32; 4]>().write(CALLS.map(u32::to_be));
            // Slot and flags, address, size, user address.
            let memory = [0u64, 0, RAM as u64, ram as u64];
            call(vm.as_raw_fd(), SET_MEMORY, memory.as_ptr() as u64)?;
            let mut cap = [0u64; 13];
            cap[0] = CAP_PAPR;
            call(vcpu.as_raw_fd(), ENABLE_CAP, cap.as_ptr() as u64)?;
            let mut registers = [0u64; REGISTERS];
            (registers[MSR], registers[GPR4]) = (MODE, 1);
            call(vcpu.as_raw_fd(), SET_REGISTERS, registers.as_ptr() as u64)?;
            for (id, at) in [(F31, &raw const marks.f31), (V31, marks.v31.as_ptr())] {
                call(vcpu.as_raw_fd(), SET_ONE_REGISTER, [id, at as u64].as_ptr() as u64)?;
            }
            let size = call(kvm.as_raw_fd(), VCPU_MMAP_SIZE, 0)? as usize;
            let area = mmap(null_mut(), size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.as_raw_fd(), 0);
            Ok(Self { vcpu, _vm: vm, area: mapped(area)? })
        }
    }

    /// Runs the guest to its next hypercall, after which the guest pauses. Returns the contents of
    /// this thread's registers, which held `marks` before.
    pub(crate) fn run(&mut self, pause: Pause, marks: &Marks) -> Result<Marks> {
        let (result, after) = run(self.vcpu.as_raw_fd(), marks);
        if result < 0 {
            return Err(Error::from_raw_os_error(-result as i32));
        }
        // SAFETY: both are in the area, aligned; the kernel writes it only during the call.
        unsafe {
            let reason = self.area.add(REASON).cast::<u32>().read_volatile();
            if reason != EXIT_HCALL {
                return Err(Error::other(format!("KVM exit {reason}")));
            }
            let next = match pause {
                Pause::Loops(loops) => [loops, 0],
                Pause::Sleep => [1, 1],
            };
            self.area.add(R4).cast::<[u64; 2]>().write_volatile(next);
        }
        Ok(after)
    }
}

fn mapped(area: *mut libc::c_void) -> Result<*mut u8> {
    if area == MAP_FAILED { Err(Error::last_os_error()) } else { Ok(area.cast()) }
}

/// # Safety
/// An address in `argument` must be of what the number says.
unsafe fn call(fd: i32, number: c_ulong, argument: u64) -> Result<i32> {
    // SAFETY: the caller's promise.
    let result = unsafe { libc::ioctl(fd, number, argument) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result) }
}

/// `KVM_RUN`. Returns its result or, below 0, the error, and f31 and v31.
fn run(vcpu: i32, marks: &Marks) -> (i64, Marks) {
    /// Number of `ioctl`.
    const IOCTL: u64 = 54;
    let mut after = Marks::of(0);
    let mut result = vcpu as u64;
    // SAFETY: the kernel changes the guest's memory and the area, to which nobody holds a
    // reference. The assembly reads `marks` and writes `after`; what may be lost is listed.
    unsafe {
        core::arch::asm!(
            "lvx 31, 0, 14",
            "lfd 31, 16(14)",
            "sc",
            // The summary overflow bit says that r3 is an error number.
            "bns+ 2f",
            "neg 3, 3",
            "2:",
            "stvx 31, 0, 15",
            "stfd 31, 16(15)",
            inout("r0") IOCTL => _, inout("r3") result, inout("r4") RUN => _, inout("r5") 0u64 => _,
            in("r14") marks, in("r15") &raw mut after,
            clobber_abi("C"),
            out("f14") _, out("f15") _, out("f16") _, out("f17") _, out("f18") _, out("f19") _, out("f20") _,
            out("f21") _, out("f22") _, out("f23") _, out("f24") _, out("f25") _, out("f26") _, out("f27") _,
            out("f28") _, out("f29") _, out("f30") _, out("f31") _,
            out("v20") _, out("v21") _, out("v22") _, out("v23") _, out("v24") _, out("v25") _, out("v26") _,
            out("v27") _, out("v28") _, out("v29") _, out("v30") _, out("v31") _,
        );
    }
    (result as i64, after)
}
