#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!(
    "spapr-iommu needs Linux: it uses VFIO, KVM and eventfd of the running kernel, and its models use them as well. \
     Build it for a Linux target; any architecture will do, such as x86_64-unknown-linux-gnu."
);

#[cfg(target_os = "linux")]
pub mod addr;
#[cfg(all(feature = "cli", target_os = "linux"))]
pub mod cli;
#[cfg(target_os = "linux")]
pub mod device;
#[cfg(target_os = "linux")]
pub mod dma;
#[cfg(target_os = "linux")]
pub mod eeh;
#[cfg(target_os = "linux")]
pub mod guest;
#[cfg(target_os = "linux")]
pub mod host;
#[cfg(target_os = "linux")]
pub mod kvm;
#[cfg(target_os = "linux")]
pub mod map;
#[cfg(target_os = "linux")]
pub mod memlock;
#[cfg(target_os = "linux")]
pub mod permission;
#[cfg(target_os = "linux")]
pub mod registry;
#[cfg(all(feature = "cli", target_os = "linux"))]
pub mod replay;
#[cfg(all(feature = "cli", target_os = "linux"))]
pub mod scenario;
#[cfg(target_os = "linux")]
pub mod space;
#[cfg(target_os = "linux")]
pub mod stats;
#[cfg(target_os = "linux")]
pub mod uapi;
#[cfg(target_os = "linux")]
pub mod window;

/// The guide's programs.
#[cfg(doctest)]
#[doc = include_str!("../docs/drivers.md")]
mod guide {}
