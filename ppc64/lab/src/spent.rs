//! How the time of a run was spent: a line that `ppc64/run` prints and `ppc64/matrix` reads.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::resource::{UsageWho, getrusage};
use ppc64_init::protocol::Report;
use serde::{Deserialize, Serialize};

/// Start of the line.
const WORD: &str = "time: ";

/// How long a machine ran, how much of that its emulation used a processor, and how long each
/// command took. The difference between the first two is waiting, which other machines can use.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Spent {
    /// Seconds from start to end.
    pub machine: f64,
    /// Seconds of processor time.
    pub processor: f64,
    /// Commands with their seconds, by the machine's clock.
    pub commands: Vec<(String, f64)>,
}

impl Spent {
    /// Returns the time of a machine that ran for `machine` and reported `reports`. `before`:
    /// processor time of earlier children.
    pub fn new(machine: Duration, before: Duration, commands: &[Vec<String>], reports: &[Report]) -> Result<Self> {
        let ended = reports.iter().filter_map(|report| match report {
            Report::Exited { command, milliseconds, .. } => {
                Some((commands.get(*command)?.first()?.clone(), *milliseconds as f64 / 1000.0))
            }
            _ => None,
        });
        let processor = children()?.saturating_sub(before);
        Ok(Self { machine: machine.as_secs_f64(), processor: processor.as_secs_f64(), commands: ended.collect() })
    }

    /// Finds and parses the line.
    pub fn among(lines: &str) -> Option<Self> {
        lines.lines().rev().find_map(|line| line.parse().ok())
    }
}

/// Returns the processor time of all children of this process that have ended.
pub fn children() -> Result<Duration> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).context("read the processor time of children")?;
    let duration = |time: nix::sys::time::TimeVal| {
        let micros = i128::from(time.tv_sec()) * 1_000_000 + i128::from(time.tv_usec());
        Duration::from_micros(micros.try_into().unwrap_or(0))
    };
    Ok(duration(usage.user_time()) + duration(usage.system_time()))
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{WORD}machine {:.1} s, processor {:.1} s", self.machine, self.processor)?;
        self.commands.iter().try_for_each(|(name, seconds)| write!(f, ", {name} {seconds:.1} s"))
    }
}

impl FromStr for Spent {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let mut parts = line.strip_prefix(WORD).ok_or(())?.split(", ").map(|part| {
            let (name, seconds) = part.strip_suffix(" s")?.rsplit_once(' ')?;
            Some((name.to_owned(), seconds.parse::<f64>().ok()?))
        });
        let mut named = |wanted: &str| parts.next().flatten().filter(|(name, _)| name == wanted).ok_or(());
        let ((_, machine), (_, processor)) = (named("machine")?, named("processor")?);
        Ok(Self { machine, processor, commands: parts.collect::<Option<_>>().ok_or(())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_reads_back_as_it_is_shown() {
        let commands = vec![("kernel".to_owned(), 31.5), ("spapr-iommu".to_owned(), 0.1)];
        let spent = Spent { machine: 101.3, processor: 12.0, commands };
        let line = "time: machine 101.3 s, processor 12.0 s, kernel 31.5 s, spapr-iommu 0.1 s";
        assert_eq!(spent.to_string(), line);
        assert_eq!(Spent::among(&format!("memory: x\n{line}\nleak: y\n")), Some(spent));
        let alone = Spent { machine: 1.0, ..Spent::default() };
        assert_eq!(alone.to_string().parse(), Ok(alone));
        for wrong in [
            "",
            "time: ",
            "time: machine 1 s",
            "time: processor 1.0 s, machine 1.0 s",
            "time: machine x s, processor 1 s",
        ] {
            assert_eq!(wrong.parse::<Spent>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn commands_are_named_with_what_they_took() {
        let commands = [vec!["a".to_owned(), "--x".to_owned()], vec!["b".to_owned()]];
        let exited = |command, milliseconds| Report::Exited { command, status: 0, milliseconds };
        let reports = [exited(0, 1500), Report::Finished, exited(1, 20), exited(7, 1)];
        let spent = Spent::new(Duration::from_secs(9), Duration::MAX, &commands, &reports).unwrap();
        assert_eq!((spent.machine, spent.processor), (9.0, 0.0));
        assert_eq!(spent.commands, [("a".to_owned(), 1.5), ("b".to_owned(), 0.02)]);
    }
}
