//! The C interface, as a program in C uses it.

mod header;

use std::path::PathBuf;

/// The package of the C interface.
fn package() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
