//! Processes that end badly while they use everything.

use crate::Busy;
use libtest_mimic::Failed;
use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::Duration;

const WORD: &str = "SPAPR_IOMMU_VICTIM";
const READY: &str = "everything is in use";

/// How such a process ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// By a signal, without warning.
    Killed,
    /// By a panic that unwinds.
    Panics,
}

/// Returns whether this process is such a one.
pub(crate) fn asked() -> Option<How> {
    match env::var(WORD).ok()?.as_str() {
        "killed" => Some(How::Killed),
        _ => Some(How::Panics),
    }
}

/// Uses everything, and ends badly.
pub(crate) fn die(how: How) -> ExitCode {
    let _busy = match Busy::new() {
        Ok(busy) => busy,
        Err(error) => {
            eprintln!("{error:?}");
            return ExitCode::FAILURE;
        }
    };
    println!("{READY}");
    if how == How::Panics {
        std::panic::resume_unwind(Box::new("on purpose"));
    }
    sleep(Duration::from_secs(60));
    ExitCode::FAILURE
}

/// Runs such a process to its end.
pub(crate) fn run(how: How) -> Result<(), Failed> {
    let word = if how == How::Killed { "killed" } else { "panics" };
    let mut victim = Command::new(env::current_exe()?).env(WORD, word).stdout(Stdio::piped()).spawn()?;
    let output = victim.stdout.take().ok_or("no output of the victim")?;
    let first = BufReader::new(output).lines().next().transpose()?;
    if how == How::Killed {
        victim.kill()?;
    }
    let status = victim.wait()?;
    match first.as_deref() {
        Some(READY) => Ok(()),
        _ => Err(format!("the victim did not get everything into use ({status})").into()),
    }
}
