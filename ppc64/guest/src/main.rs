//! A bare-metal pseries guest.
#![cfg_attr(target_arch = "powerpc64", no_std, no_main)]

#[cfg(target_arch = "powerpc64")]
mod guest;

/// On other architectures there is no such guest.
#[cfg(not(target_arch = "powerpc64"))]
fn main() {
    eprintln!("this is the guest of examples/vmm, built by ppc64/run for POWER");
}
