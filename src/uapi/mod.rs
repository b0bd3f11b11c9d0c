//! Numbers and structures of the kernel interface, and nothing else.
//!
//! Field names and layouts follow `include/uapi/linux/vfio.h`; ioctl numbers use the target's own
//! encoding, which on POWER is not the generic one (`arch/powerpc/include/uapi/asm/ioctl.h`: `_IO`
//! sets bit 29).

pub mod eeh;
pub mod kvm;
pub mod papr;
pub mod spapr;
pub mod vfio;

use nix::request_code_none;

/// An ioctl number, as the C library takes it.
pub type Number = nix::sys::ioctl::ioctl_num_type;

/// Returns VFIO's ioctl number `n`: all are built without direction and size.
const fn number(n: u8) -> Number {
    request_code_none!(b';', 100 + n)
}

#[cfg(test)]
mod oracle;
