//! Runs commands of this project on real POWER kernels in emulated machines.
//!
//! `ppc64/README.md` is the guide. A run passes these modules: [`options`] parses the request,
//! [`kernel`] finds the kernel, [`program`] builds the commands, [`packaged`] finds Debian's
//! programs that they run, [`initramfs`] packs all, [`machine`] describes the machine, [`boot`]
//! runs it, [`console`] splits its console output, [`verdict`] judges it and [`spent`] reports
//! where the time went.
//!
//! For all machines with all kernels, [`cell`] names one combination, [`show`] runs its commands,
//! [`drivers`] runs its drivers and [`guests`] its Linux guests, which have tables of their own,
//! [`compare`] checks the outcomes, and [`table`] and [`document`] print them.

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

/// Returns the top of the repository.
///
/// `cargo run` names the package it runs, which is correct even if several copies of the repository
/// share a target directory.
pub fn repository() -> PathBuf {
    let package =
        std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    package.ancestors().nth(2).unwrap_or(Path::new("/")).to_owned()
}
