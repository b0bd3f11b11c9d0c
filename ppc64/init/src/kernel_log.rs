//! Faults in the kernel log.
//!
//! The console shows only part of the log, so it is searched here at the end.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;

use crate::finding::is_fault;
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::OFlag;

/// Lines sent after each fault: registers and backtrace.
const CONTEXT: usize = 50;

/// Returns the lines that report faults, each with the lines that follow.
pub fn faults() -> Result<Vec<String>> {
    let mut log = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open("/dev/kmsg")
        .context("open /dev/kmsg")?;
    // A read returns one record, and fails with EINVAL when the buffer is too small for it.
    let mut buffer = [0; 8192];
    let mut faults = Vec::new();
    let mut wanted = 0;
    loop {
        let length = match log.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            // Older records were overwritten in the meantime; the next read continues after them.
            Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => continue,
            Err(error) => return Err(error).context("read /dev/kmsg"),
        };
        let line = message(&String::from_utf8_lossy(&buffer[..length]));
        if is_fault(&line) {
            wanted = CONTEXT + 1;
        }
        if wanted > 0 {
            wanted -= 1;
            faults.push(line);
        }
    }
    Ok(faults)
}

/// Returns the text of `priority,number,microseconds,flags;text` and of continuation lines.
fn message(record: &str) -> String {
    let line = record.lines().next().unwrap_or_default();
    line.split_once(';').map_or(line, |(_, text)| text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::message;

    #[test]
    fn the_text_of_a_record() {
        let record = "4,512,9100000,-;WARNING: CPU: 0; at x.c:1\n SUBSYSTEM=pci\n";
        assert_eq!(message(record), "WARNING: CPU: 0; at x.c:1");
    }
}
