//! What the host and the first process of an emulated machine have to agree on.
//!
//! The program itself is `main.rs`; this library is shared with `ppc64-lab`.

pub mod finding;
pub mod manifest;
pub mod protocol;
