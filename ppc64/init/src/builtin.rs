//! Commands that are part of the first process: a report on the machine, and misbehaviour to test
//! the host with.

use std::fs;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use ppc64_init::setup;

use crate::provoke;

/// Names of the commands that need no program of their own.
pub(crate) const NAMES: [&str; 2] = ["report", "selftest"];

/// Runs one of [`NAMES`].
pub(crate) fn run(words: Vec<String>) -> ExitCode {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["report"] => report().map(|()| ExitCode::SUCCESS),
        ["selftest", what @ ..] => selftest(what),
        _ => Err(anyhow::anyhow!("unknown command {words:?}")),
    };
    result.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

/// Prints what the machine is and what it offers to VFIO.
fn report() -> Result<()> {
    println!("{}", crate::machine()?);
    let cpu = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
    for field in ["cpu", "platform", "machine", "firmware", "MMU"] {
        let line = cpu.lines().find(|line| line.split_once(':').is_some_and(|(name, _)| name.trim() == field));
        if let Some((_, value)) = line.and_then(|line| line.split_once(':')) {
            println!("{field}: {}", value.trim());
        }
    }
    for device in setup::list()? {
        println!("{device}");
    }
    let mut nodes = fs::read_dir("/dev/vfio")
        .context("list /dev/vfio")?
        .map(|entry| Ok(entry?.path().display().to_string()))
        .collect::<Result<Vec<_>>>()?;
    nodes.sort();
    println!("{}", nodes.join(" "));
    Ok(())
}

/// Deliberately does what the host must notice.
fn selftest(what: &[&str]) -> Result<ExitCode> {
    match what {
        ["status", status] => return Ok(ExitCode::from(status.parse::<u8>()?)),
        ["streams"] => {
            println!("to standard output: \u{e4}\r");
            eprintln!("to standard error");
        }
        ["arguments", rest @ ..] => {
            for word in rest {
                println!("{word}");
            }
        }
        ["cat", path] => print!("{}", fs::read_to_string(path).context(path.to_string())?),
        ["environment", name] => println!("{}", std::env::var(name)?),
        // The root file system lies in memory and is not a cache.
        ["leak", kib] => {
            let bytes = kib.parse::<usize>()?.checked_mul(1024).context("too large")?;
            fs::write("/leak", vec![1; bytes])?;
        }
        ["kill"] => nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL)?,
        ["warn"] => fs::write("/dev/kmsg", "<4>WARNING: a warning made by the self-test\n")?,
        ["oops"] => fs::write("/proc/sysrq-trigger", "c")?,
        ["hang"] => loop {
            sleep(Duration::from_secs(3600));
        },
        _ => return provoke::run(what).unwrap_or_else(|| bail!("unknown self-test {what:?}")),
    }
    Ok(ExitCode::SUCCESS)
}
