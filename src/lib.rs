//! DMA memory manager for POWER.
#![deny(unsafe_code)]

pub mod addr;
pub mod host;
pub mod map;
pub mod memlock;
pub mod permission;
pub mod registry;
pub mod space;
pub mod uapi;
pub mod window;
