//! What the guest's first process and `examples/linux` agree on: how lines on the console begin,
//! and where the host puts the modules.

/// Of a check that passed.
pub const PASSED: &str = "ok ";
/// Of a check that failed.
pub const FAILED: &str = "FAIL ";
/// Of the last line, which the exit status ends.
pub const STATUS: &str = "exit status ";

/// A file that names the modules, a path a line, in the order they are loaded.
pub const MODULES: &str = "/modules/order";

/// In the line that says that user space runs.
pub const STARTED: &str = ", in user space ";

/// Of a line with a result: [`Measure::name`], a colon, a number.
pub const MEASURED: &str = "measured ";

/// What `--measure` measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Measure {
    /// Random reads, one at a time.
    Depth1,
    /// Random reads, 32 at a time.
    Depth32,
    /// Reading all in a row.
    Reads,
    /// Writing all in a row.
    Writes,
}

impl Measure {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Depth1, Self::Depth32, Self::Reads, Self::Writes];

    /// Returns what a line calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Depth1 => "random reads of 4 KiB a second, depth 1",
            Self::Depth32 => "random reads of 4 KiB a second, depth 32",
            Self::Reads => "sequential reads, MiB a second",
            Self::Writes => "sequential writes, MiB a second",
        }
    }
}
