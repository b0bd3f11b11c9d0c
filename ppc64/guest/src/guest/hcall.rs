//! Hypercalls: `sc 1` with the number in r3 and arguments from r4 on; the return code comes back in
//! r3, values from r4 on.

use core::arch::asm;

pub(super) const H_GET_TCE: u64 = 0x1c;
pub(super) const H_PUT_TCE: u64 = 0x20;
pub(super) const H_PUT_TERM_CHAR: u64 = 0x58;
pub(super) const H_STUFF_TCE: u64 = 0x138;
pub(super) const H_PUT_TCE_INDIRECT: u64 = 0x13c;
pub(super) const H_RTAS: u64 = 0xf000;

/// Return code and r4 of hypercall `number`.
pub(super) fn hcall(number: u64, args: [u64; 4]) -> (i64, u64) {
    let (mut r3, mut r4) = (number, args[0]);
    // SAFETY: the hypervisor changes memory only where a call's arguments say, and callers own
    // that; registers it may change are listed.
    unsafe {
        asm!(
            "sc 1",
            inout("r3") r3, inout("r4") r4, inout("r5") args[1] => _, inout("r6") args[2] => _, inout("r7") args[3] => _,
            lateout("r0") _, lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _, lateout("r12") _,
            lateout("ctr") _, lateout("xer") _, lateout("cr0") _, lateout("cr1") _, lateout("cr5") _,
            lateout("cr6") _, lateout("cr7") _,
        );
    }
    (r3 as i64, r4)
}

/// Tells the monitor that this is the end. It does not come back.
pub(super) fn done(failures: u64) -> ! {
    loop {
        hcall(ppc64_guest::H_DONE, [failures, 0, 0, 0]);
    }
}
