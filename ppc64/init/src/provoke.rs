//! Runs a command where something is missing or wrong, to see what it says.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;

use anyhow::{Context, Result, bail, ensure};
use nix::kmod::{DeleteModuleFlags, delete_module};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};

use crate::command;

/// File in which the kernel gives its version.
const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// Runs one of these, or returns `None` for other words:
///
/// * `expect STATUS COMMAND…` fails unless the command ends with that status;
/// * `as USER BYTES COMMAND…` runs the command as a user, with a limit of locked memory;
/// * `release VERSION COMMAND…` runs the command on a kernel that calls itself VERSION;
/// * `unload MODULE` unloads a kernel module;
/// * `mode OCTAL FILE…` sets who may open files.
pub(crate) fn run(words: &[&str]) -> Option<Result<ExitCode>> {
    Some(match words {
        ["expect", status, command @ ..] => expect(status, command),
        ["as", user, bytes, command @ ..] => run_as(user, bytes, command),
        ["release", version, command @ ..] => with_release(version, command),
        ["unload", module] => unload(module),
        ["mode", mode, files @ ..] => set_mode(mode, files),
        _ => return None,
    })
}

fn here(command: &[&str]) -> Result<u8> {
    let words: Vec<String> = command.iter().map(|&word| word.to_owned()).collect();
    command::run_here(&words)
}

fn expect(status: &str, command: &[&str]) -> Result<ExitCode> {
    let (expected, found) = (status.parse::<u8>()?, here(command)?);
    ensure!(found == expected, "{command:?} ended with status {found}, not {expected}");
    Ok(ExitCode::SUCCESS)
}

fn run_as(user: &str, bytes: &str, command: &[&str]) -> Result<ExitCode> {
    let (id, bytes) = (user.parse()?, bytes.parse()?);
    setrlimit(Resource::RLIMIT_MEMLOCK, bytes, bytes).context("limit locked memory")?;
    setgroups(&[]).context("leave all groups")?;
    setgid(Gid::from_raw(id)).context("change the group")?;
    setuid(Uid::from_raw(id)).context("change the user")?;
    here(command).map(ExitCode::from)
}

fn with_release(version: &str, command: &[&str]) -> Result<ExitCode> {
    const FILE: &str = "/tmp/osrelease";
    fs::write(FILE, format!("{version}\n")).context("write the version")?;
    unshare(CloneFlags::CLONE_NEWNS).context("get mounts of one's own")?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_PRIVATE | MsFlags::MS_REC, None::<&str>)
        .context("keep mounts from others")?;
    mount(Some(FILE), RELEASE, None::<&str>, MsFlags::MS_BIND, None::<&str>).context("hide the version")?;
    here(command).map(ExitCode::from)
}

fn unload(module: &str) -> Result<ExitCode> {
    let name = CString::new(module)?;
    delete_module(&name, DeleteModuleFlags::O_NONBLOCK).with_context(|| format!("unload {module}"))?;
    Ok(ExitCode::SUCCESS)
}

fn set_mode(mode: &str, files: &[&str]) -> Result<ExitCode> {
    let mode = u32::from_str_radix(mode, 8).context("an octal mode")?;
    if files.is_empty() {
        bail!("no files");
    }
    for file in files {
        fs::set_permissions(file, Permissions::from_mode(mode)).with_context(|| file.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}
