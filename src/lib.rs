//! DMA memory manager for POWER.
#![deny(unsafe_code)]

pub mod addr;
pub mod host;
pub mod map;
pub mod permission;
pub mod uapi;
