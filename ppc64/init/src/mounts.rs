//! The file systems the commands expect.

use std::fs;

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount, umount};

/// Mounts proc, sysfs, devtmpfs and a temporary directory.
pub fn mount_all() -> Result<()> {
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")] {
        mount_one(kind, target)?;
    }
    mount_one("tmpfs", "/tmp")
}

/// Gives back what commands left in the temporary directory: files there are no leak.
pub fn empty_tmp() -> Result<()> {
    umount("/tmp").context("unmount /tmp; a command left a process behind that uses it")
}

fn mount_one(kind: &str, target: &str) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("create {target}"))?;
    mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("mount {kind} on {target}"))
}
