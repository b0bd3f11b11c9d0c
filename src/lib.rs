#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

pub mod addr;
#[cfg(feature = "cli")]
pub mod cli;
pub mod device;
pub mod dma;
pub mod eeh;
pub mod guest;
pub mod host;
pub mod kvm;
pub mod map;
pub mod memlock;
pub mod permission;
pub mod registry;
#[cfg(feature = "cli")]
pub mod replay;
#[cfg(feature = "cli")]
pub mod scenario;
pub mod space;
pub mod stats;
pub mod uapi;
pub mod window;

/// The guide's programs.
#[cfg(doctest)]
#[doc = include_str!("../docs/drivers.md")]
mod guide {}
