//! Keeps QEMU from having its TCE tables in the kernel.
//!
//! No option of QEMU does. On a host without KVM_CAP_SPAPR_TCE_VFIO QEMU keeps the tables of a PHB
//! with VFIO itself and answers the guest's hypercalls; so QEMU is made to see such a host.
#![allow(unsafe_code, reason = "the kernel reads a filter by its address")]

use nix::errno::Errno;
use nix::libc::{
    self, BPF_ABS, BPF_ALU, BPF_AND, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W, SECCOMP_RET_ALLOW,
    SECCOMP_RET_ERRNO, sock_filter, sock_fprog,
};
use std::io;

/// Type and number of KVM_CHECK_EXTENSION, and the capability (`linux/kvm.h`).
const CHECK_EXTENSION: u32 = 0xae03;
const SPAPR_TCE_VFIO: u32 = 142;

/// Offsets in `struct seccomp_data` of the call's number, and of the lower halves of its second and
/// third argument on a little-endian machine.
const NUMBER: u32 = 0;
const SECOND: u32 = 24;
const THIRD: u32 = 32;

/// Makes the kernel deny that capability to this process and its children.
pub(crate) fn acceleration() -> io::Result<()> {
    let statement = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let unless = |k: u32, jf: u8| sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt: 0, jf, k };
    let mut filter = [
        statement(BPF_LD | BPF_W | BPF_ABS, NUMBER),
        unless(libc::SYS_ioctl as u32, 6),
        statement(BPF_LD | BPF_W | BPF_ABS, SECOND),
        statement(BPF_ALU | BPF_AND | BPF_K, 0xffff),
        unless(CHECK_EXTENSION, 3),
        statement(BPF_LD | BPF_W | BPF_ABS, THIRD),
        unless(SPAPR_TCE_VFIO, 1),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | Errno::ENOSYS as u32),
        statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    ];
    let program = sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    nix::sys::prctl::set_no_new_privs()?;
    // SAFETY: the kernel copies the filter, which lives until the call returns.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &program) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}
