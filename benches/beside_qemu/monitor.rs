//! Runs a monitor and observes it from outside, the same way for either.

use ppc64_linux_init::{FAILED, MEASURED, Measure, STARTED, STATUS};
use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const DEBUGFS: &str = "/sys/kernel/debug";

/// Observations of a run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    /// From the start to user space of the guest.
    pub(crate) boot: Duration,
    /// From the start to the end of the monitor.
    pub(crate) whole: Duration,
    /// Results measured by the guest.
    pub(crate) measured: BTreeMap<Measure, f64>,
    /// Peak of resident memory, in KiB.
    pub(crate) resident: u64,
    /// KVM's counters when the guest reached user space, by name in debugfs.
    pub(crate) kvm_boot: BTreeMap<String, u64>,
    /// KVM's counters when the guest had measured.
    pub(crate) kvm: BTreeMap<String, u64>,
    /// Everything that the monitor printed.
    pub(crate) output: String,
}

/// Runs a monitor to its end. Fails if the monitor or its guest does.
pub(crate) fn run(mut command: Command, verbose: bool) -> Result<Run, Box<dyn Error>> {
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
    let status_file = format!("/proc/{}/status", child.id());
    let mut run = Run::default();
    let mut status = None;
    let output = child.stdout.take().ok_or("no output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        if verbose {
            println!("{line}");
        }
        if line.contains(STARTED) && run.boot.is_zero() {
            run.boot = began.elapsed();
            run.kvm_boot = kvm_counters();
        }
        if let Some((_, result)) = line.split_once(MEASURED) {
            let (name, value) = result.rsplit_once(": ").ok_or("a result without a number")?;
            let what = Measure::ALL.into_iter().find(|what| what.name() == name).ok_or("an unknown result")?;
            run.measured.insert(what, value.trim().parse()?);
            run.kvm = kvm_counters();
        }
        // The monitor may have ended before its last lines are read.
        run.resident = run.resident.max(resident(&status_file).unwrap_or(0));
        if line.starts_with(FAILED) {
            return Err(format!("a check of the guest failed: {line}").into());
        }
        status = line.split_once(STATUS).map(|(_, status)| status.trim().to_owned()).or(status);
        run.output += &line;
        run.output.push('\n');
    }
    let ended = child.wait()?;
    run.whole = began.elapsed();
    if !ended.success() || status.as_deref() != Some("0") || run.measured.len() < Measure::ALL.len() {
        return Err(format!("{command:?} ended with {ended}, its guest with {status:?}:\n{}", run.output).into());
    }
    Ok(run)
}

/// Reads VmHWM.
fn resident(status: &str) -> Option<u64> {
    let text = fs::read_to_string(status).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Reads KVM's counters of all guests: there is one.
fn kvm_counters() -> BTreeMap<String, u64> {
    let files = fs::read_dir(format!("{DEBUGFS}/kvm")).into_iter().flatten().flatten();
    let counter = |file: fs::DirEntry| {
        let value = fs::read_to_string(file.path()).ok()?.trim().parse().ok()?;
        Some((file.file_name().to_string_lossy().into_owned(), value))
    };
    files.filter_map(counter).filter(|(name, _)| name.ends_with("_exits")).collect()
}
