//! The agreement between the guest's first process and `examples/linux`: how lines on the console
//! begin, and where the host puts the modules.

use clap::ValueEnum;
use std::fmt;
use std::str::FromStr;

/// Start of the line of a check that passed.
pub const PASSED: &str = "ok ";
/// Start of the line of a check that failed.
pub const FAILED: &str = "FAIL ";
/// Start of the last line, which ends with the exit status.
pub const STATUS: &str = "exit status ";

/// Start of a line that says that devices have no driver: what they can reach is the same each
/// time.
pub const IDLE: &str = "the disks have no driver";

/// What the first process wrote to the emulated disk and found there again: a line that the monitor
/// compares with the disk's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrote {
    /// Offset from the start of the disk.
    pub start: u64,
    /// Bytes.
    pub len: u64,
    /// CRC-32 of these bytes.
    pub checksum: u32,
}

/// Start of such a line.
const WROTE: &str = "wrote to the emulated disk: ";

impl fmt::Display for Wrote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{WROTE}{} {} {:08x}", self.start, self.len, self.checksum)
    }
}

impl FromStr for Wrote {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let mut words = line.strip_prefix(WROTE).ok_or(())?.split(' ');
        let mut number = |radix| u64::from_str_radix(words.next().unwrap_or_default(), radix).map_err(drop);
        let (start, len, checksum) = (number(10)?, number(10)?, number(16)?);
        Ok(Self { start, len, checksum: u32::try_from(checksum).map_err(drop)? })
    }
}

/// A file that names the modules, one path per line, in loading order.
pub const MODULES: &str = "/modules/order";

/// The kernel with which the guest restarts itself.
pub const NEXT_KERNEL: &str = "/next-kernel";
/// Its initial file system.
pub const NEXT_INITRD: &str = "/next-initrd";

/// How a guest gets from its first boot to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Restart {
    /// The monitor resets the machine
    Reboot,
    /// The first kernel starts the second, without the monitor
    Kexec,
    /// The first kernel crashes while it writes, and a crash kernel takes over
    Crash,
}

impl fmt::Display for Restart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reboot => "reboot",
            Self::Kexec => "kexec",
            Self::Crash => "crash",
        })
    }
}

/// In the line that says that user space runs.
pub const STARTED: &str = ", in user space ";

/// The line that says that the machine may be saved, while disks are written.
pub const READY: &str = "ready to be saved";

/// Start of a line with a result: [`Measure::name`], a colon, a number.
pub const MEASURED: &str = "measured ";

/// Measurements of `--measure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Random reads, one at a time.
    Depth1,
    /// Random reads, 32 at a time.
    Depth32,
    /// Sequential reads.
    Reads,
    /// Sequential writes.
    Writes,
}

impl Measure {
    /// All measurements.
    pub const ALL: [Self; 4] = [Self::Depth1, Self::Depth32, Self::Reads, Self::Writes];

    /// Returns its name in a line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Depth1 => "random reads of 4 KiB a second, depth 1",
            Self::Depth32 => "random reads of 4 KiB a second, depth 32",
            Self::Reads => "sequential reads, MiB a second",
            Self::Writes => "sequential writes, MiB a second",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_as_it_is_printed() {
        let wrote = Wrote { start: 4 << 20, len: 4 << 20, checksum: 0x00c0_ffee };
        assert_eq!(wrote.to_string().parse(), Ok(wrote));
        for line in ["", "wrote", "wrote to the emulated disk: 1 2", "wrote to the emulated disk: 1 2 123456789"] {
            assert_eq!(line.parse::<Wrote>(), Err(()), "{line}");
        }
    }
}
