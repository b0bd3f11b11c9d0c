//! The C interface, as programs in C use it. The tests build and install it first, as a user would.

mod header;
mod install;
mod programs;

use std::path::PathBuf;

/// Returns the package of the C interface.
fn package() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
