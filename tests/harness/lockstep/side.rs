//! One side: a host with its files and memory by slot, and its visible state.

use crate::by_address::RunCall;
use core::hash::{Hash, Hasher};
use core::ops::Deref;
use spapr_iommu::addr::UserRange;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Call, Errno, GroupFacts, Host, Memory, Node};
use spapr_iommu::model::{Model, Preset};
use spapr_iommu::uapi::{spapr, vfio};
use spapr_iommu_cli::scenario::raw::{DeviceFile, Done, Process, Which};
pub use spapr_iommu_cli::scenario::raw::{Part, Slot, Step, Where};
use std::fs::File;
use std::hash::DefaultHasher;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

/// Larger pieces of memory are only accessed by devices.
const MAX_READ: u64 = 4 << 20;

/// A kernel with memory.
pub trait Machine: Host + Memory {
    /// Returns the locked bytes of this process.
    fn locked(&self) -> u64 {
        self.memlock().map_or(u64::MAX, |memlock| memlock.locked)
    }
}

impl Machine for Model {}

/// It is read after each step: opening it anew would take longer than most steps do.
static STATUS: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/self/status").ok());

impl Machine for Vfio {
    fn locked(&self) -> u64 {
        let mut text = [0; 4096];
        let len = STATUS.as_ref().and_then(|status| status.read_at(&mut text, 0).ok()).unwrap_or(0);
        let text = String::from_utf8_lossy(&text[..len]);
        let line = text.lines().find_map(|line| line.strip_prefix("VmLck:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kilobytes.map_or(u64::MAX, |kilobytes| kilobytes << 10)
    }
}

pub struct Side<M> {
    pub host: M,
    process: Process,
    /// Bytes that were locked at the beginning.
    locked: u64,
}

impl<M> Deref for Side<M> {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// The result of a step, and the visible state afterwards.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub result: Result<i32, Errno>,
    /// The call's structure with the kernel's answer.
    pub call: Option<Call>,
    /// Bytes locked since the beginning.
    pub locked: i128,
    /// GET_INFO of each open container and GET_STATUS of each open group.
    pub seen: Vec<(Slot, Result<i32, Errno>, Call)>,
    /// A hash of each piece of memory that is not too large, after DMA.
    pub contents: Vec<u64>,
}

impl<M: Machine> Side<M> {
    pub fn new(host: M, groups: Vec<GroupFacts>) -> Self {
        let locked = host.locked();
        Self { host, process: Process::new(groups), locked }
    }

    /// Runs a step and inspects the state.
    pub fn apply(&mut self, step: &Step) -> Outcome {
        let done = self.run(step);
        self.outcome(step, done)
    }

    /// Returns the result of a completed step, with the visible state.
    pub fn outcome(&self, step: &Step, (result, call): Done) -> Outcome {
        let contents = match step {
            Step::Dma { .. } => self.small_memory().map(|(_, range)| contents(&self.host, range)).collect(),
            _ => Vec::new(),
        };
        Outcome { result, call, locked: self.locked(), seen: self.look(), contents }
    }

    /// Returns the memory that is checked after DMA.
    pub fn small_memory(&self) -> impl Iterator<Item = (usize, UserRange)> {
        self.memory.iter().copied().enumerate().filter(|(_, range)| range.len() <= MAX_READ)
    }

    /// Runs a step; the second value is the call's structure afterwards.
    pub fn run(&mut self, step: &Step) -> Done {
        self.process.run(&self.host, &self.host, step)
    }

    pub fn locked(&self) -> i128 {
        i128::from(self.host.locked()) - i128::from(self.locked)
    }

    fn look(&self) -> Vec<(Slot, Result<i32, Errno>, Call)> {
        self.open_files()
            .filter_map(|(slot, fd)| {
                let mut call = match slot {
                    Slot::Container(_) => Call::TceGetInfo(spapr::TceInfo { argsz: 32, ..Default::default() }),
                    Slot::Group(_) => Call::GroupGetStatus(vfio::GroupStatus { argsz: 8, ..Default::default() }),
                    Slot::Device(_) => return None,
                };
                let result = self.host.run_call(fd, &mut call);
                Some((slot, result, call))
            })
            .collect()
    }
}

impl Side<Model> {
    /// Creates another side in the same state.
    pub fn fork(&self) -> Self {
        Self { host: self.host.fork(), process: self.process.clone(), locked: self.locked }
    }
}

/// Returns at least two groups with vfio-pci.
pub fn groups(host: &impl Host) -> Result<Vec<GroupFacts>, String> {
    let groups = crate::machine::groups(host);
    if groups.len() < 2 {
        return Err(format!("two groups with vfio-pci are needed, there are {groups:?}"));
    }
    Ok(groups)
}

/// A model from scratch, of an emulated machine, which freezes no PE.
pub fn fresh_model(preset: Preset) -> Result<Side<Model>, String> {
    let model = Model::new(preset).without_freezing();
    let groups = groups(&model)?;
    Ok(Side::new(model, groups))
}

/// Creates another model, whose files have other numbers and whose memory has other addresses.
pub fn shifted_model(preset: Preset) -> Result<Side<Model>, String> {
    let side = fresh_model(preset)?;
    side.host.allocate(5 << 20, side.host.page_shift()).map_err(|errno| errno.to_string())?;
    let container = side.host.open(Node::Container).map_err(|errno| errno.to_string())?;
    side.host.close(container);
    Ok(side)
}

/// Returns a hash of memory, page by page, including what cannot be read.
fn contents(memory: &impl Memory, range: UserRange) -> u64 {
    const PIECE: u64 = 64 << 10;
    let mut hash = DefaultHasher::new();
    let mut data = vec![0; PIECE as usize];
    for piece in range.chunks(PIECE) {
        let data = &mut data[..piece.len() as usize];
        if memory.read(piece.start(), data).is_ok() {
            data.hash(&mut hash);
            continue;
        }
        for page in piece.chunks(4096) {
            let data = &mut data[..page.len() as usize];
            match memory.read(page.start(), data) {
                Ok(()) => data.hash(&mut hash),
                Err(_) => "not readable".hash(&mut hash),
            }
        }
    }
    hash.finish()
}

impl Outcome {
    /// Formats the result, and the parts of the rest that differ from `other`.
    pub fn beside(&self, other: &Self) -> String {
        let mut text = match self.result {
            Ok(value) => format!("{value}"),
            Err(errno) => format!("{errno:?}"),
        };
        if self.call != other.call {
            text += &format!(", {:?}", self.call);
        }
        if self.locked != other.locked {
            text += &format!(", locked {:#x}", self.locked);
        }
        for (slot, result, call) in self.seen.iter().filter(|seen| !other.seen.contains(seen)) {
            text += &format!(", {slot}: {result:?} {call:?}");
        }
        if self.contents != other.contents {
            text += &format!(", memory {:x?}", self.contents);
        }
        text
    }
}

pub const CONTAINERS: usize = 3;
pub const GROUPS: usize = 2;
pub const DEVICES: usize = 4;
pub const FILES: usize = CONTAINERS + GROUPS + DEVICES;

/// The first two are files of one device, the third is another group's, the fourth has a name that
/// does not exist.
const DEVICE_FILES: [DeviceFile; DEVICES] = [
    DeviceFile { group: 0, which: Which::First },
    DeviceFile { group: 0, which: Which::Again },
    DeviceFile { group: 1, which: Which::First },
    DeviceFile { group: 0, which: Which::Absent },
];

/// Returns the n-th device file.
pub fn device(n: usize) -> Slot {
    Slot::Device(DEVICE_FILES[n])
}

/// Returns the n-th file.
pub fn slot(index: usize) -> Slot {
    match index {
        n if n < CONTAINERS => Slot::Container(n),
        n if n < CONTAINERS + GROUPS => Slot::Group(n - CONTAINERS),
        n => device(n - CONTAINERS - GROUPS),
    }
}
