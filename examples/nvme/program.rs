//! What programs of drivers share: options, the machine they work on, what a process holds after
//! many rounds, and what a driver finds in a PCI function.

use crate::driver::Wait;
use clap::ValueEnum;
use ppc64_init::memory::settled_free_kib;
use serde_json::{Value, json};
use spapr_iommu::addr::Bytes;
use spapr_iommu::device::{Device, Endian, InterruptKind};
use spapr_iommu::host::Host;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::model::Model;
use std::error::Error;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum How {
    Interrupts,
    Polling,
}

impl From<How> for Wait {
    fn from(how: How) -> Self {
        match how {
            How::Interrupts => Self::Interrupts,
            How::Polling => Self::Polling,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    Msix,
    Msi,
    Intx,
}

impl From<Kind> for InterruptKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Msix => Self::Msix,
            Kind::Msi => Self::Msi,
            Kind::Intx => Self::Intx,
        }
    }
}

/// Preset of the model on a machine that is not POWER.
const DEFAULT: &str = "powernv9-64k";

/// Creates the model of a preset, with the program's devices.
type Make = fn(&str) -> Result<Model, Box<dyn Error>>;

/// A host, and whether it is a model.
pub(crate) struct Machine {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) is_model: bool,
}

impl Machine {
    /// Returns the host that the option names, `vfio` or `model:PRESET`; without it the running
    /// kernel on POWER, otherwise a model.
    pub(crate) fn new(option: Option<&str>, model: Make) -> Result<Self, Box<dyn Error>> {
        match option {
            Some("vfio") => Ok(Self { host: Arc::new(Vfio::new()), is_model: false }),
            Some(text) => {
                let preset = text.strip_prefix("model:").ok_or("hosts are vfio and model:PRESET")?;
                Ok(Self { host: Arc::new(model(preset)?), is_model: true })
            }
            None => {
                let host = Vfio::new();
                if host.platform().is_some() {
                    return Ok(Self { host: Arc::new(host), is_model: false });
                }
                eprintln!("this machine is not POWER: on the model {DEFAULT}");
                Ok(Self { host: Arc::new(model(DEFAULT)?), is_model: true })
            }
        }
    }
}

/// KiB of memory that may be missing afterwards: pages that the kernel keeps for slabs, some per
/// processor.
const TOLERANCE: u64 = 1024;

/// Returns the number of open files. It is 0 in a test, since other tests in the process open files
/// too.
pub(crate) fn open_files() -> Result<usize, Box<dyn Error>> {
    Ok(if cfg!(test) { 0 } else { fs::read_dir("/proc/self/fd")?.count() })
}

/// Resources in use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) locked: u64,
    pub(crate) files: usize,
    /// Free memory of the machine; a model has none of its own.
    free_kib: u64,
}

impl Held {
    fn now(host: &dyn Host, is_model: bool) -> Result<Self, Box<dyn Error>> {
        let files = open_files()?;
        let free_kib = if is_model { 0 } else { settled_free_kib()? };
        Ok(Self { locked: host.memlock()?.locked, files, free_kib })
    }

    /// Returns the memory that is missing since `before`, KiB.
    fn missing_kib(&self, before: &Self) -> u64 {
        before.free_kib.saturating_sub(self.free_kib)
    }

    /// Prints what is in use, and what was in use before.
    fn print(&self, before: &Self) {
        println!(
            "locked memory {} before, {} after; open files {}, {}; free memory {} KiB, {} KiB",
            Bytes(before.locked),
            Bytes(self.locked),
            before.files,
            self.files,
            before.free_kib,
            self.free_kib
        );
    }

    /// Checks that nothing more is in use than before.
    fn check(&self, before: &Self) -> Result<(), Box<dyn Error>> {
        if (before.locked, before.files) != (self.locked, self.files) || self.missing_kib(before) > TOLERANCE {
            return Err("something was not given back".into());
        }
        Ok(())
    }
}

/// Number of rounds that are not measured: they fill caches of kernel and allocator.
const WARM_UP: u32 = 3;
/// Interval between two lines of progress.
const EVERY: Duration = Duration::from_secs(20);

/// Many rounds in which a driver opens, uses and closes its device.
pub(crate) struct Rounds<'a> {
    pub(crate) host: &'a dyn Host,
    pub(crate) is_model: bool,
    pub(crate) address: &'a str,
    pub(crate) rounds: u32,
    /// What each round moves, for people.
    pub(crate) moves: String,
    pub(crate) json: bool,
}

impl Rounds<'_> {
    /// Runs the rounds, and a few before them, and checks that nothing is left.
    pub(crate) fn run(&self, round: impl Fn() -> Result<(), Box<dyn Error>>) -> Result<(), Box<dyn Error>> {
        (0..WARM_UP).try_for_each(|_| round())?;
        let before = Held::now(self.host, self.is_model)?;
        let began = Instant::now();
        let mut reported = began;
        for done in 0..self.rounds {
            if reported.elapsed() > EVERY {
                reported = Instant::now();
                eprintln!("{done} rounds in {:.0?}", began.elapsed());
            }
            round().map_err(|error| format!("round {done}: {error}"))?;
        }
        let took = began.elapsed();
        let after = Held::now(self.host, self.is_model)?;
        if self.json {
            let line = json!({
                "device": self.address, "rounds": self.rounds, "seconds": took.as_secs_f64(), "locked": after.locked,
                "files": after.files, "missing_kib": after.missing_kib(&before),
            });
            println!("{line}");
        } else {
            let each = took / self.rounds.max(1);
            println!("{} rounds in {took:.1?}, {each:.2?} each, of {}", self.rounds, self.moves);
            after.print(&before);
        }
        after.check(&before)
    }
}

/// Offset of the BARs in the configuration space, and the bit that marks I/O space.
const BAR0: u64 = 0x10;
const IO: u32 = 1;
/// IDs of capabilities that drivers look for: power management, MSI, PCI Express, MSI-X.
const CAPABILITIES: [u8; 4] = [0x01, 0x05, 0x10, 0x11];
const MSIX: u8 = 0x11;

/// Reads what a driver finds in any PCI function, as JSON: IDs, memory BARs, interrupts and
/// capabilities.
pub(crate) fn read_function(device: &Device) -> Result<Value, Box<dyn Error>> {
    let config = device.config();
    let (vendor, id) = device.id();
    let mut bars = [0; 6];
    for (index, size) in (0..).zip(&mut bars) {
        // Not every host has I/O space.
        if config.read::<u32>(BAR0 + 4 * u64::from(index))? & IO == 0 {
            *size = device.bar(index, Endian::Little).map_or(0, |bar| bar.size());
        }
    }
    use InterruptKind::{Intx, Msi, Msix, Request};
    let count = |kind: InterruptKind| device.interrupts(kind).map_or(0, |info| info.count);
    let interrupts: Vec<_> = [Intx, Msi, Msix, InterruptKind::Error, Request].map(count).into();
    let capabilities: Vec<_> = CAPABILITIES.into_iter().filter(|id| config.capability(*id).is_some()).collect();
    let msix = match config.capability(MSIX) {
        Some(at) => json!([config.read::<u32>(at + 4)?, config.read::<u32>(at + 8)?]),
        None => Value::Null,
    };
    Ok(json!({
        "vendor": vendor, "device": id, "class": config.read::<u32>(8)? >> 8, "bars": bars,
        "interrupts": interrupts, "capabilities": capabilities, "msix": msix,
    }))
}
