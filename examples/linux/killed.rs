//! Kills a monitor while its guest writes: the host gets back everything it held, the device too.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

/// The guest's line when it begins.
const WRITING: &str = "guest: writing";
/// How long it may write.
const WAIT: Duration = Duration::from_secs(1);

/// Runs this program again with `words` and kills it while its guest writes. Returns whether that
/// is how it ended.
pub(crate) fn run(words: impl Iterator<Item = String>) -> Result<bool, Box<dyn Error>> {
    let mut monitor = Command::new(std::env::current_exe()?).args(words).stdout(Stdio::piped()).spawn()?;
    let output = monitor.stdout.take().ok_or("no output")?;
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        if line.starts_with(WRITING) {
            thread::sleep(WAIT);
            monitor.kill()?;
        }
    }
    let killed = monitor.wait()?.signal() == Some(nix::libc::SIGKILL);
    println!("the monitor was {}", if killed { "killed" } else { "not killed: its guest did not begin to write" });
    Ok(killed)
}
