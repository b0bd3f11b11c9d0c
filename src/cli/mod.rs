//! The command `spapr-iommu`.

mod log;
mod output;
mod run;

use crate::host::model::Preset;
use clap::{Parser, Subcommand};
use core::str::FromStr;
use std::path::PathBuf;
use std::process::ExitCode;

/// DMA memory manager for POWER: registers memory, plans and makes DMA windows, maps TCEs.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// What to log on stderr: error, warn, info, debug, trace, `ioctl` for kernel calls alone, or a filter as in RUST_LOG
    #[arg(long, global = true, value_name = "LEVEL", value_parser = log::parse)]
    log: Option<String>,
}

const EXIT_CODES: &str = "\
Exit codes: 0 all as expected, 1 something came out otherwise, 2 a wrong file or wrong usage, 3 something is in the way \
on this host.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios: files that say what to do and what should come of it
    #[command(after_help = EXIT_CODES)]
    Run(RunArguments),
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// Scenario files (see docs/scenario.md)
    #[arg(required = true, value_name = "SCENARIO")]
    scenarios: Vec<PathBuf>,

    /// Where: `vfio` is the running kernel, `model` the kernel in process, for example model:pseries-4k
    #[arg(long, value_name = "model[:PRESET]|vfio", default_value = "model")]
    host: HostChoice,

    /// Let bare steps run on the running kernel: they may crash it, or lose memory and devices until it boots again
    #[arg(long)]
    bare: bool,

    /// Print one JSON document per scenario, a line each, and nothing else
    #[arg(long)]
    json: bool,
}

/// Which host to run on.
#[derive(Clone, Copy, Debug)]
enum HostChoice {
    Model(Option<Preset>),
    Vfio,
}

impl FromStr for HostChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "vfio" => Ok(Self::Vfio),
            None if text == "model" => Ok(Self::Model(None)),
            Some(("model", preset)) => {
                preset.parse().map(|preset| Self::Model(Some(preset))).map_err(|e| format!("{e}"))
            }
            _ => Err("hosts are model, model:PRESET (for example model:powernv9-4k) and vfio".into()),
        }
    }
}

/// How the command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Exit {
    Success = 0,
    Surprise = 1,
    Usage = 2,
    Obstacle = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Runs the command with the arguments of the process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log::start(arguments.log.as_deref());
    match arguments.command {
        Command::Run(run) => run::run(&run).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }
}
