//! The first instructions and the last ones; and functions of the C library that the compiler
//! calls. Volatile accesses keep the compiler from turning them into calls of themselves.

use super::hcall;
use super::report::say;
use core::arch::global_asm;
use core::ffi::c_int;
use core::panic::PanicInfo;

// The monitor starts the guest in real mode, little endian, with the device tree's address in r3.
// FP, VEC and VSX are switched on: the compiler copies with vector registers.
global_asm!(
    ".section .bss.stack, \"aw\", @nobits",
    ".balign 65536",
    ".space 262144",
    "guest_stack_end:",
    ".section .text._start, \"ax\", @progbits",
    ".globl _start",
    "_start:",
    "lis 2, .TOC.@ha",
    "addi 2, 2, .TOC.@l",
    "mfmsr 4",
    "lis 5, 0x0280",
    "ori 5, 5, 0x2000",
    "or 4, 4, 5",
    "mtmsrd 4",
    "isync",
    "lis 1, guest_stack_end@ha",
    "addi 1, 1, guest_stack_end@l",
    "li 0, 0",
    "stdu 0, -128(1)",
    "bl guest_main",
    "nop",
    "trap",
);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    say!("FAIL panic: {info}");
    hcall::done(1)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the caller guarantees `len` bytes at both, which do not overlap.
    (0..len).for_each(|index| unsafe { to.add(index).write_volatile(from.add(index).read()) });
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, value: c_int, len: usize) -> *mut u8 {
    // SAFETY: the caller guarantees `len` bytes there.
    (0..len).for_each(|index| unsafe { to.add(index).write_volatile(value as u8) });
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> c_int {
    // SAFETY: the caller guarantees `len` bytes at both.
    let differs = |index| unsafe { a.add(index).read_volatile() != b.add(index).read_volatile() };
    c_int::from((0..len).any(differs))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    // SAFETY: the caller guarantees a terminating zero.
    (0..).find(|index| unsafe { text.add(*index).read_volatile() } == 0).unwrap_or(0)
}
