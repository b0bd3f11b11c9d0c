//! The agreement between the host and the first process of an emulated machine, and the way in
//! which both measure free memory.
//!
//! The program itself is `main.rs`; this library is shared with `ppc64-lab`, with tests that run
//! inside, and with the first process of a guest of the machine, `ppc64-linux-init`.

pub mod finding;
pub mod kernel_log;
pub mod manifest;
pub mod memory;
pub mod protocol;
pub mod setup;
