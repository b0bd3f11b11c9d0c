//! What the host and the first process of an emulated machine have to agree on, and how both
//! measure free memory.
//!
//! The program itself is `main.rs`; this library is shared with `ppc64-lab` and with tests that run
//! inside.

pub mod finding;
pub mod manifest;
pub mod memory;
pub mod protocol;
