//! A bare-metal pseries guest.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod guest;

/// Elsewhere there is nothing to be a guest of.
#[cfg(not(target_arch = "powerpc64"))]
fn main() {
    eprintln!("this is the guest of examples/vmm, built by ppc64/run for POWER");
}
