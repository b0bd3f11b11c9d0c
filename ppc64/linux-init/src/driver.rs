//! Loads and unloads the kernel's NVMe driver.

use std::fs;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;
use nix::kmod::{DeleteModuleFlags, delete_module};
use ppc64_init::setup;
use ppc64_linux_init::MODULES;

fn list() -> Result<Vec<String>> {
    let text = fs::read_to_string(MODULES).with_context(|| format!("read {MODULES}"))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Loads the modules.
pub(crate) fn load() -> Result<()> {
    setup::load_modules(&list()?)
}

/// Unloads the driver of the controllers.
pub(crate) fn unload() -> Result<()> {
    delete_module(c"nvme", DeleteModuleFlags::from_bits_retain(OFlag::O_NONBLOCK.bits())).context("unload nvme")
}
