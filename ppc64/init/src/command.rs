//! Runs commands.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use ppc64_init::protocol::Channel;

use crate::builtin;
use crate::console::Console;

/// Runs a command, passes on its output and returns its status.
pub(crate) fn run(console: &Console, words: &[String], environment: &BTreeMap<String, String>) -> Result<u8> {
    run_with(words, environment, |channel, bytes| console.send(channel, bytes))
}

/// Runs a program on every processor, so that memory that kernel and first process keep from their
/// first use on does not count as a leak.
pub(crate) fn warm_up(environment: &BTreeMap<String, String>) -> Result<()> {
    let this = Pid::from_raw(0);
    let all = sched_getaffinity(this).context("list the processors")?;
    for processor in 0..CpuSet::count() {
        if !all.is_set(processor)? {
            continue;
        }
        let mut one = CpuSet::new();
        one.set(processor)?;
        sched_setaffinity(this, &one).with_context(|| format!("go to processor {processor}"))?;
        for _ in 0..2 {
            let status = run_with(&["report".to_owned()], environment, |_, _| {})?;
            ensure!(status == 0, "the warm-up failed with status {status}");
        }
    }
    sched_setaffinity(this, &all).context("go back to all processors")
}

/// Runs a command with this process's environment and output, and returns its status.
pub(crate) fn run_here(words: &[String]) -> Result<u8> {
    let environment = std::env::vars().collect();
    let status = prepare(words, &environment)?.status().with_context(|| format!("start {words:?}"))?;
    Ok(code(status))
}

fn run_with(
    words: &[String],
    environment: &BTreeMap<String, String>,
    send: impl Fn(Channel, &[u8]) + Sync,
) -> Result<u8> {
    let mut child = prepare(words, environment)?
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {words:?}"))?;
    let output = child.stdout.take().context("no standard output")?;
    let error = child.stderr.take().context("no standard error")?;
    thread::scope(|scope| {
        scope.spawn(|| pass_on(output, |bytes| send(Channel::Output, bytes)));
        scope.spawn(|| pass_on(error, |bytes| send(Channel::Error, bytes)));
    });
    let status = child.wait().with_context(|| format!("wait for {words:?}"))?;
    Ok(code(status))
}

fn prepare(words: &[String], environment: &BTreeMap<String, String>) -> Result<Command> {
    let (name, arguments) = words.split_first().context("an empty command")?;
    let mut command = if builtin::NAMES.contains(&name.as_str()) {
        let mut command = Command::new("/init");
        command.arg(name);
        command
    } else {
        Command::new(format!("/bin/{name}"))
    };
    command
        .args(arguments)
        .env_clear()
        .env("PATH", "/bin")
        .env("HOME", "/")
        .env("TMPDIR", "/tmp")
        .envs(environment)
        .current_dir("/")
        .stdin(Stdio::null());
    Ok(command)
}

fn pass_on(mut from: impl Read, send: impl Fn(&[u8])) {
    let mut buffer = [0; 4096];
    // An error here means that the writer has ended.
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        send(&buffer[..length]);
    }
}

/// As shells report it.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(255);
    u8::try_from(code).unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_count_from_128() {
        assert_eq!(code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(code(ExitStatus::from_raw(9)), 137);
    }
}
