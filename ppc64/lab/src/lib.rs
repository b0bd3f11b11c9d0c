//! Runs commands of this project on real POWER kernels in emulated machines.
//!
//! `ppc64/README.md` is the guide. The way of one run: [`options`] says what is wanted, [`kernel`]
//! finds the kernel, [`program`] builds the commands, [`packaged`] finds programs of Debian they run, [`initramfs`] packs them, [`machine`]
//! describes the machine,
//! [`boot`] runs it, [`console`] takes its console apart, [`verdict`] judges and [`spent`] tells where the time went. Of all machines with all kernels: [`cell`]
//! is one of them, [`show`] what is run in it, [`drivers`] and [`guests`] the parts of it that are tables of their
//! own, [`compare`] what is made of it, [`table`] and
//! [`document`] how it is told.

pub mod apt;
pub mod archive;
pub mod boot;
pub mod cell;
pub mod compare;
pub mod console;
pub mod document;
pub mod drivers;
pub mod guests;
pub mod initramfs;
pub mod kernel;
pub mod label;
pub mod machine;
pub mod options;
pub mod packaged;
pub mod program;
pub mod show;
pub mod spent;
pub mod table;
pub mod verdict;

use std::path::{Path, PathBuf};

/// The top of the repository.
///
/// `cargo run` names the package it runs, which is right also where several copies of the
/// repository share a target directory.
pub fn repository() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.ancestors().nth(2).unwrap_or(Path::new("/")).to_owned()
}
