//! The command line.

use clap::{Parser, ValueEnum};
use ppc64_linux_init::Restart;
use std::path::{Path, PathBuf};

/// Boots a Linux guest with devices of the host.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Which TCE hypercalls the kernel answers
    #[arg(long, value_enum, default_value_t = Accel::Off)]
    pub(crate) accel: Accel,
    /// Number of processors
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8))]
    pub(crate) cpus: u32,
    /// RAM of the guest in MiB
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u64).range(256..))]
    pub(crate) memory: u64,
    /// RAM in MiB that the guest can ever have, by which it sizes its DMA window: a crash kernel
    /// finds 2048 TCEs for itself only in a window of 64 GiB [default: its RAM]
    #[arg(long)]
    pub(crate) max_memory: Option<u64>,
    /// Blocks of 64 MiB that the guest plugs and unplugs; they are not saved
    #[arg(long, default_value_t = 0, conflicts_with_all = ["save", "restore"],
        value_parser = clap::value_parser!(u32).range(..=64))]
    pub(crate) plug: u32,
    /// NVMe controllers the guest gets: the first that are bound to vfio-pci [default: all]
    #[arg(long)]
    pub(crate) disks: Option<usize>,
    /// Also give the guest an emulated disk over that file, which is created if it does not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) emulated: Option<PathBuf>,
    /// How the guest reaches the registers of its devices
    #[arg(long, value_enum, default_value_t = Bars::Mapped)]
    pub(crate) bars: Bars,
    /// Have the guest write to the emulated disk, meanwhile save the machine to that file, and its
    /// RAM to another one next to it, and end
    #[arg(long, value_name = "FILE", requires = "emulated")]
    pub(crate) save: Option<PathBuf>,
    /// Continue with the guest that was saved to that file, with the same options
    #[arg(long, value_name = "FILE", conflicts_with = "save")]
    pub(crate) restore: Option<PathBuf>,
    /// How often the guest boots: it restarts itself before the last time
    #[arg(long, default_value_t = 1)]
    pub(crate) boots: u32,
    /// How the guest comes to its second boot
    #[arg(long, value_enum, default_value_t = Restart::Reboot)]
    pub(crate) restart: Restart,
    /// Seconds that a boot may take: after that the monitor reports where each processor is, and
    /// gives up
    #[arg(long, default_value_t = 250)]
    pub(crate) limit: u64,
    /// Run the monitor as a child, have its guest write endlessly, and kill the monitor meanwhile
    #[arg(long)]
    pub(crate) kill: bool,
    /// Let `spapr-iommu inspect` see the monitor
    #[arg(long)]
    pub(crate) inspect: bool,
    /// The guest's kernel, an ELF image
    #[arg(long, default_value = "/guest/vmlinux")]
    pub(crate) kernel: PathBuf,
    /// The guest's initial file system
    #[arg(long, default_value = "/guest/initramfs.gz")]
    pub(crate) initrd: PathBuf,
    /// Programs for a guest that restarts itself
    #[arg(long, default_value = "/guest/programs.gz")]
    pub(crate) programs: PathBuf,
    /// Additional words for the guest's kernel, such as loglevel=7
    #[arg(long, default_value = "quiet")]
    pub(crate) append: String,
    /// Additional options for the guest's first process, such as "--reloads 200"
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub(crate) init: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Accel {
    /// All: for guests that one trusts
    On,
    /// H_PUT_TCE and H_GET_TCE: for any guest
    PutOnly,
    /// None
    Off,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Bars {
    /// As memory, where the host can map them
    Mapped,
    /// Each access exits to the monitor
    Trapped,
}

/// Reads a file of the guest.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("{}: {error}; ppc64/run packs it", path.display()))
}
