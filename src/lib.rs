#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

pub mod addr;
pub mod device;
pub mod dma;
pub mod guest;
pub mod host;
pub mod kvm;
pub mod map;
#[cfg(feature = "model")]
pub mod model;
pub mod permission;
pub mod registry;
pub mod space;
pub mod uapi;
pub mod window;

/// The guide's programs.
#[cfg(doctest)]
#[doc = include_str!("../docs/drivers.md")]
mod guide {}
