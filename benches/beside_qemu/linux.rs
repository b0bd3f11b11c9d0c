//! The monitor `examples/linux`.

use crate::counts::Counts;
use crate::monitor::{self, Run};
use crate::{Accel, Options};
use std::error::Error;
use std::process::Command;

/// Runs the monitor.
pub(crate) fn run(options: &Options) -> Result<(Run, Counts), Box<dyn Error>> {
    let accel = if options.accel == Accel::On { "on" } else { "off" };
    let mut command = Command::new("/bin/linux");
    command.args(["--disks", "1", "--init", "--measure", "--accel", accel]);
    command.args(["--memory", &options.memory.to_string()]);
    let run = monitor::run(command, options.verbose)?;
    let counts = Counts::of_report(&run.output).ok_or("the monitor printed no report")?;
    Ok((run, counts))
}
