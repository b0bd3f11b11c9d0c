//! The command line of `ppc64/run`.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use clap::{Parser, ValueEnum};

use crate::kernel::Kernel;
use crate::label::Label;

/// Runs commands of this project on a real POWER kernel in an emulated machine.
#[derive(Debug, Parser)]
#[command(
    name = "ppc64/run",
    after_help = "COMMAND is spapr-iommu, an example, an integration test or a benchmark of the project, or one of the words \
        report and selftest.\nThe exit status is the command's own; 125 when the machine, the kernel or this \
        program failed, and on a time-out."
)]
pub struct Options {
    /// The machine to emulate
    #[arg(long, value_enum)]
    pub machine: Machine,
    /// Kernel label (6.12, 6.12-64k, 7.2, 7.2-64k, or an exact version: 7.2.6), or an ELF image
    /// together with --modules
    #[arg(long)]
    pub kernel: String,
    /// Directory with the modules of a kernel given by path
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// Test devices, each on a host bridge and in an IOMMU group of its own [default: edu edu]
    #[arg(long = "device", value_enum)]
    pub devices: Vec<Device>,
    /// Processor, pseries only [default: power9]
    #[arg(long, value_enum)]
    pub cpu: Option<Cpu>,
    /// Number of processors
    #[arg(long, default_value_t = 1)]
    pub smp: u32,
    /// Memory of the machine, in QEMU's syntax
    #[arg(long, default_value = "2G", value_parser = memory)]
    pub memory: String,
    /// Seconds after which a machine that is still running has failed
    #[arg(long, default_value_t = 300)]
    pub timeout: u64,
    /// Number of huge pages of the default size to set aside
    #[arg(long, value_name = "N")]
    pub hugepages: Option<u64>,
    /// Keep everything that the console showed
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Dynamic DMA windows of the firmware, pseries only
    #[arg(long, value_enum)]
    pub ddw: Option<Switch>,
    /// Page sizes the firmware offers for DMA windows, a hexadecimal mask, pseries only
    #[arg(long, value_name = "HEX")]
    pub pgsz: Option<String>,
    /// Load the host's own NVMe driver and leave NVMe devices with it
    #[arg(long)]
    pub host_driver: bool,
    /// Load KVM
    #[arg(long)]
    pub kvm: bool,
    /// Kernel label of a guest that a command boots [default: the machine's own kernel]
    #[arg(long, value_name = "LABEL")]
    pub guest_kernel: Option<Label>,
    /// Set an environment variable for the commands; RUST_LOG and RUST_BACKTRACE are always passed
    /// on
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = key_value)]
    pub environment: Vec<(String, String)>,
    /// A file or directory of the repository that the commands need, besides those that are
    /// arguments
    #[arg(long = "file", value_name = "PATH")]
    pub files: Vec<String>,
    /// An argument for QEMU
    #[arg(long = "qemu-arg", value_name = "ARG", allow_hyphen_values = true)]
    pub qemu_args: Vec<String>,
    /// Succeed if, and only if, the kernel oopses or panics
    #[arg(long)]
    pub expect_oops: bool,
    /// Allow kernel warnings: other faults still fail the run
    #[arg(long)]
    pub allow_warnings: bool,
    /// Memory that may be missing after the commands [default: 1024, 512 more for each further
    /// processor, 1024 more with --kvm]
    #[arg(long, value_name = "KIB")]
    pub leak_tolerance: Option<u64>,
    /// The command and its arguments; --then starts another command
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub words: Vec<String>,
}

/// Machines on which VFIO's sPAPR driver works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Machine {
    /// Bare metal, POWER8 with PHB3
    Powernv8,
    /// Bare metal, POWER9 with PHB4
    Powernv9,
    /// Bare metal, Power10 with PHB5
    Powernv10,
    /// A guest of a hypervisor
    Pseries,
}

/// Devices that do DMA on command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Device {
    /// QEMU's teaching device
    Edu,
    /// A disk controller
    Nvme,
    /// Two disk controllers, in one IOMMU group
    NvmePair,
    /// An Ethernet controller
    E1000e,
    /// A disk controller and an Ethernet controller, in one IOMMU group
    NvmeE1000e,
}

impl Device {
    /// Returns the number of disk controllers.
    pub fn disks(self) -> usize {
        match self {
            Device::Edu | Device::E1000e => 0,
            Device::Nvme | Device::NvmeE1000e => 1,
            Device::NvmePair => 2,
        }
    }

    /// Returns the number of Ethernet controllers.
    pub fn ports(self) -> usize {
        usize::from(matches!(self, Device::E1000e | Device::NvmeE1000e))
    }

    /// Returns the number of devices.
    pub fn count(self) -> usize {
        (self.disks() + self.ports()).max(1)
    }
}

/// Processors of pseries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Cpu {
    Power8,
    Power9,
    Power10,
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(missing_docs)]
pub enum Switch {
    On,
    Off,
}

impl Options {
    /// Returns the devices, or the default ones.
    pub fn devices(&self) -> Vec<Device> {
        if self.devices.is_empty() { vec![Device::Edu; 2] } else { self.devices.clone() }
    }

    /// Returns the commands, split at `--then`.
    pub fn commands(&self) -> Result<Vec<Vec<String>>> {
        let commands: Vec<Vec<String>> = self.words.split(|word| word == "--then").map(<[String]>::to_vec).collect();
        ensure!(commands.iter().all(|command| !command.is_empty()), "--then stands between two commands");
        Ok(commands)
    }

    /// Finds the kernel of a guest.
    pub fn find_guest_kernel(&self, cache: &Path) -> Result<Kernel> {
        self.guest_kernel.map_or_else(|| self.find_kernel(cache), |label| Kernel::of_label(label, cache))
    }

    /// Finds the kernel.
    pub fn find_kernel(&self, cache: &Path) -> Result<Kernel> {
        match &self.modules {
            Some(modules) => Kernel::of_path(Path::new(&self.kernel), modules),
            None if Path::new(&self.kernel).is_file() => {
                bail!("--kernel {} is a file and needs --modules DIR", self.kernel)
            }
            None => Kernel::of_label(self.kernel.parse::<Label>()?, cache),
        }
    }
}

/// Parses a size as QEMU's -m takes it: MiB, or a number with a suffix, then QEMU's other settings.
/// QEMU would replace 0 by a default of its own.
fn memory(text: &str) -> Result<String, String> {
    let size = text.split(',').next().unwrap_or_default();
    let digits = size.strip_suffix(|c: char| "bkmgtpeBKMGTPE".contains(c)).unwrap_or(size);
    let number = digits.chars().all(|c| c.is_ascii_digit() || c == '.') && digits.parse().is_ok_and(|n: f64| n > 0.0);
    if number { Ok(text.to_owned()) } else { Err("a size is MiB, or a number with a suffix, for example 2G".into()) }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, clap::Error> {
        Options::try_parse_from(["run"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn options_stand_before_and_commands_after_the_dashes() {
        let options = parse(
            "--machine powernv9 --kernel 7.2-64k --device nvme --device edu --env A=b=c -- \
             spapr-iommu run --machine x --then report",
        )
        .unwrap();
        assert_eq!(options.machine, Machine::Powernv9);
        assert_eq!(options.devices(), [Device::Nvme, Device::Edu]);
        assert_eq!(options.environment, [("A".into(), "b=c".into())]);
        assert_eq!(options.commands().unwrap(), [vec!["spapr-iommu", "run", "--machine", "x"], vec!["report"]]);
    }

    #[test]
    fn two_devices_are_the_default() {
        let options = parse("--machine pseries --kernel 6.12 -- report").unwrap();
        assert_eq!(options.devices(), [Device::Edu, Device::Edu]);
        assert_eq!(options.timeout, 300);
        assert_eq!(options.memory, "2G");
    }

    #[test]
    fn memory_is_a_size_and_not_0() {
        for size in ["2G", "2048", "1.5g", "3145728K", "2G,slots=1,maxmem=4G"] {
            assert_eq!(parse(&format!("--machine pseries --kernel 6.12 --memory {size} -- a")).unwrap().memory, size);
        }
        for size in ["0", "0G", "0.0", "G", "-1", "2Q", "1e3", "inf", "", ",slots=2"] {
            let line = format!("--machine pseries --kernel 6.12 --memory={size} -- a");
            assert!(parse(&line).is_err(), "{size}");
        }
    }

    #[test]
    fn an_empty_command_is_refused() {
        for words in ["--then report", "report --then", "a --then --then b"] {
            let line = format!("--machine pseries --kernel 6.12 -- {words}");
            assert!(parse(&line).unwrap().commands().is_err(), "{words}");
        }
        assert!(parse("--machine pseries --kernel 6.12 --").is_err());
    }

    #[test]
    fn a_variable_needs_a_name_and_a_value() {
        for text in ["A", "=b", ""] {
            assert!(key_value(text).is_err(), "{text}");
        }
    }
}
