//! The command `spapr-iommu`.

mod bind;
mod doctor;
mod generate;
mod input;
mod inspect;
mod inspected;
mod interrupt;
mod list;
mod log;
mod output;
mod picture;
mod plan;
mod remedy;
mod replay;
mod run;
mod terminal;

pub(crate) use output::section;

use crate::replay::Trace;
use crate::scenario::{NumberError, checked_number};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use core::str::FromStr;
use spapr_iommu::model::{HostPage, KernelVersion, Machine, Preset};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use terminal::{Color, say};
use tracing_subscriber::filter::Targets;

/// Model used if neither the command line nor the file names one.
const DEFAULT_PRESET: Preset =
    Preset { machine: Machine::Powernv9, page: HostPage::Large, kernel: KernelVersion::V6_12 };

/// DMA memory manager for POWER: registers memory, plans and creates DMA windows, maps TCEs.
#[derive(Debug, Parser)]
#[command(name = "spapr-iommu", version, arg_required_else_help = true, after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,

    /// What to log on stderr: error, warn, info, debug, trace, `ioctl` for kernel calls only, or a
    /// filter as in RUST_LOG
    #[arg(long, global = true, value_name = "LEVEL", value_parser = log::parse)]
    log: Option<Targets>,

    /// When to use colour; `auto` means on a terminal unless NO_COLOR is set
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value_t)]
    color: Color,
}

/// Returns the command line: its subcommands, arguments and help.
pub fn parser() -> clap::Command {
    Arguments::command()
}

const EXIT_CODES: &str = "\
Exit codes: 0 everything as expected, 1 an unexpected result, 2 a wrong file or wrong usage, 3 something is in the way \
on this host, 130 interrupted.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run scenarios: files of steps and their expected results
    #[command(after_help = EXIT_CODES)]
    Run(RunArguments),

    /// Replay QEMU traces of a guest's TCE hypercalls, and compare with what QEMU answered
    #[command(after_help = EXIT_CODES)]
    Replay(ReplayArguments),

    /// Plan windows, locked memory and calls for devices and memory; nothing is changed
    Plan(plan::PlanArguments),

    /// Give PCI devices to vfio-pci, so that a program can drive them
    #[command(after_help = EXIT_CODES)]
    Bind(BindArguments),

    /// Put PCI devices back as they were before `bind`
    #[command(after_help = EXIT_CODES)]
    Unbind(BindArguments),

    /// Check whether user space can drive devices on this machine, and say what mends it
    #[command(after_help = EXIT_CODES)]
    Doctor(DoctorArguments),

    /// List PCI devices by IOMMU group, with their drivers
    #[command(after_help = EXIT_CODES)]
    List(ListArguments),

    /// Show what a running process has registered and mapped, if it lets itself be inspected
    #[command(after_help = EXIT_CODES)]
    Inspect(InspectArguments),

    /// Print completions for a shell
    Completions(generate::CompletionsArguments),

    /// Print the man page, or write the pages of all subcommands
    Man(generate::ManArguments),
}

#[derive(Debug, clap::Args)]
struct RunArguments {
    /// Scenario files, or `-` for standard input (see docs/scenario.md)
    #[arg(required = true, value_name = "SCENARIO")]
    scenarios: Vec<PathBuf>,

    /// Host to run on: `vfio` is the running kernel, `model` the kernel in process, for example
    /// model:pseries-4k
    #[arg(long, value_name = "model[:PRESET]|vfio", default_value = "model")]
    host: HostChoice,

    /// Allow raw steps on the running kernel: they may crash it, or lose memory and devices until
    /// it boots again
    #[arg(long)]
    raw: bool,

    /// Let `spapr-iommu inspect` see the run, and wait for Enter before everything is released
    #[arg(long)]
    inspect: bool,

    #[command(flatten)]
    pictures: picture::PictureArguments,

    /// Print one JSON document per scenario, a line each, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ReplayArguments {
    /// Traces that QEMU wrote with -trace 'spapr_iommu_*', plain or .xz, or `-` for standard input
    /// (see docs/replay.md)
    #[arg(required = true, value_name = "TRACE")]
    traces: Vec<PathBuf>,

    /// Host to run on: `vfio` is the running kernel, `model` the kernel in process, for example
    /// model:pseries-4k
    #[arg(long, value_name = "model[:PRESET]|vfio", default_value = "model")]
    host: HostChoice,

    /// The guest's RAM, for example 512M [default: the smallest power of two that holds
    /// everything the trace shows]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,

    /// The default window of the guest's PCI host bridges, as QEMU's dma_win_size
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1G")]
    default_window: u64,

    /// Maximum number of events of a trace: they are kept in memory, 150 bytes each
    #[arg(long, value_name = "N", default_value_t = Trace::MAX_EVENTS)]
    max_events: usize,

    #[command(flatten)]
    pictures: picture::PictureArguments,

    /// Print one JSON document per trace, a line each, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct BindArguments {
    /// Addresses of PCI devices in full, as `lspci -D` shows them, for example 0000:00:01.0
    #[arg(required = true, value_name = "ADDRESS")]
    addresses: Vec<String>,

    /// Include all other devices of the IOMMU group except bridges: a group is used as a whole
    #[arg(long)]
    group: bool,

    /// Print one JSON document on one line, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct DoctorArguments {
    /// Memory that the program or guest will lock; without this, a low limit is a warning
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,

    /// IOMMU page that the program or guest will use, for example 64K
    #[arg(long, value_name = "SIZE", value_parser = size)]
    page: Option<u64>,

    /// Check the machine whose /proc, /sys and /dev are below this folder
    #[arg(long, value_name = "FOLDER")]
    root: Option<PathBuf>,

    /// Print one JSON document on one line, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct ListArguments {
    /// List devices of the machine whose /proc, /sys and /dev are below this folder
    #[arg(long, value_name = "FOLDER")]
    root: Option<PathBuf>,

    /// Print one JSON document on one line, and nothing else
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct InspectArguments {
    /// Number of the process, or path of its socket [default: lists the processes that can be
    /// inspected]
    #[arg(value_name = "PID|SOCKET")]
    target: Option<PathBuf>,

    /// Repeat until the process ends; every second, or after as many seconds as given
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1", require_equals = true,
        value_parser = seconds)]
    watch: Option<Duration>,

    /// Maximum mapped runs and regions to list [default: 20, with --json 10000]
    #[arg(long, value_name = "N")]
    rows: Option<usize>,

    /// List mapped runs from this bus address on
    #[arg(long, value_name = "IOVA", value_parser = size, default_value = "0")]
    from: u64,

    /// List mapped runs of this space only
    #[arg(long, value_name = "NAME")]
    space: Option<String>,

    /// List regions from this user address on
    #[arg(long, value_name = "ADDRESS", value_parser = size, default_value = "0")]
    regions_from: u64,

    /// Also draw bus addresses against user memory into that file, as SVG
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Print one JSON document on one line, and nothing else
    #[arg(long)]
    json: bool,
}

/// A time of at least a tenth of a second.
fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|_| "a number of seconds is wanted, such as 2 or 0.5".to_owned())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if time >= Duration::from_millis(100) => Ok(time),
        _ => Err("at least 0.1 seconds are wanted".into()),
    }
}

/// A number of bytes, in the notations that people and this command use: 64K, 64 KiB, 65536,
/// 0x10000.
fn size(text: &str) -> Result<u64, NumberError> {
    let binary = text.strip_suffix("iB").map(str::trim_end).filter(|rest| rest.ends_with(|c: char| c.is_alphabetic()));
    match binary.and_then(|rest| Some((rest, rest.strip_suffix(['K', 'M', 'G', 'T', 'P', 'E'])?))) {
        Some((rest, number)) => checked_number(&format!("{}{}", number.trim_end(), &rest[number.len()..])),
        None => checked_number(text),
    }
}

/// The host to run on.
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
            Some(("model", preset)) => crate::suggest::preset(preset).map(|preset| Self::Model(Some(preset))),
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
    /// 128 plus the number of SIGINT, as in shells.
    Interrupted = 130,
}

impl Exit {
    /// Returns the first exit code other than success.
    fn and(self, next: Self) -> Self {
        if self == Self::Success { next } else { self }
    }
}

/// Reports on stderr that standard output is incomplete.
fn written(result: io::Result<()>) -> Exit {
    match result {
        Ok(()) => Exit::Success,
        Err(error) => {
            say(format_args!("cannot write to standard output, which is incomplete: {error}"));
            Exit::Obstacle
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Prints the message of clap in place of running a command: help, the version, or wrong usage.
fn print(message: &clap::Error) -> Exit {
    if message.use_stderr() {
        // There is no other way to reach the user.
        let _ = message.print();
        return Exit::Usage;
    }
    let result = message.print().and_then(|()| io::stdout().flush());
    written(result.or_else(|error| if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }))
}

/// Runs the command with the arguments of the process.
pub fn main() -> ExitCode {
    let color = Color::of_arguments(std::env::args_os().skip(1));
    let command = parser().color(color.into());
    let parsed = command.try_get_matches().and_then(|matches| Arguments::from_arg_matches(&matches));
    let arguments = match parsed {
        Ok(arguments) => arguments,
        Err(error) => return print(&error).into(),
    };
    arguments.color.start();
    log::start(arguments.log);
    match arguments.command {
        Command::Run(run) => run::run(&run).into(),
        Command::Replay(replay) => replay::run(&replay).into(),
        Command::Plan(arguments) => plan::run(&arguments).into(),
        Command::Bind(arguments) => bind::run(&arguments, bind::Direction::Bind).into(),
        Command::Unbind(arguments) => bind::run(&arguments, bind::Direction::Unbind).into(),
        Command::Doctor(arguments) => doctor::run(&arguments).into(),
        Command::List(arguments) => list::run(&arguments).into(),
        Command::Inspect(arguments) => inspect::run(&arguments).into(),
        Command::Completions(arguments) => generate::completions(&arguments).into(),
        Command::Man(arguments) => generate::man(&arguments).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_in_each_form() {
        for text in ["65536", "0x10000", "64K", "64KiB", "64 KiB"] {
            assert_eq!(size(text), Ok(64 << 10), "{text}");
        }
        assert_eq!(size("2 GiB"), Ok(2 << 30));
        for wrong in ["", "iB", "KiB", "64iB", "64KB", "64kib", "64 K", "0x10 KiB", "64 KiBiB", "6 4 KiB", "-1"] {
            assert!(size(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }
}
