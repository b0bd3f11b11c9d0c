//! The first instructions, and the last.

use super::{console::say, hcall};
use core::arch::global_asm;
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
