//! Starts another kernel without the monitor: directly, or after this one has crashed.

use std::fs::{self, File};
use std::io::Read;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ppc64_linux_init::{NEXT_INITRD, NEXT_KERNEL};

/// Words of the command line that a crash kernel does not get: it reserves nothing. `kexec` adds a
/// word for the kernel at the end, so no dashes can mark the words after them as the first
/// process's; it gets the words that the kernel does not know anyway.
const RESERVES: &str = "crashkernel=";
const DASHES: &str = "--";
/// The crash kernel runs on the processor that crashed.
const ALONE: &str = "maxcpus=1";
/// How long a kernel may take to crash.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Loads the next kernel, which `reboot` starts, with additional options for its first process.
pub(crate) fn load(options: &str) -> Result<()> {
    load_next("--load", &format!("{} {options}", arguments()?))
}

/// Loads a kernel that takes over when this one crashes.
pub(crate) fn load_for_crash(options: &str) -> Result<()> {
    let own = arguments()?;
    let words: Vec<&str> =
        own.split_whitespace().filter(|word| !word.starts_with(RESERVES) && *word != DASHES).collect();
    load_next("--load-panic", &format!("{ALONE} {} {options}", words.join(" ")))
}

/// Crashes. Returns only if the kernel does not crash.
pub(crate) fn crash() -> Result<()> {
    fs::write("/proc/sysrq-trigger", "c")?;
    sleep(TIMEOUT);
    bail!("the kernel did not crash")
}

/// Checks that this kernel took over from one that crashed: it has that kernel's memory as a file.
pub(crate) fn has_crashed() -> Result<()> {
    let mut start = [0; 4];
    File::open("/proc/vmcore").context("open /proc/vmcore")?.read_exact(&mut start)?;
    ensure!(start == *b"\x7fELF", "it begins with {start:x?}");
    Ok(())
}

/// Returns this kernel's command line.
fn arguments() -> Result<String> {
    let own = fs::read_to_string("/proc/cmdline").context("read /proc/cmdline")?;
    Ok(own.trim().to_owned())
}

/// Loads the kernel with Debian's `kexec`: Linux on POWER needs a device tree, and a program that
/// runs before the kernel, both of which it makes.
fn load_next(when: &str, arguments: &str) -> Result<()> {
    let words = [when, NEXT_KERNEL, "--initrd", NEXT_INITRD, "--command-line", arguments];
    let output = Command::new("/usr/sbin/kexec").args(words).output().context("start kexec")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "kexec: {}, {}", output.status, said.trim());
    Ok(())
}
