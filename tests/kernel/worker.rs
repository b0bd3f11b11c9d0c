//! A process that uses everything without pause, until it is killed.

use crate::groups;
use fastrand::Rng;
use libtest_mimic::Failed;
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr, UserRange};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Host, Memory};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::AddressSpace;
use spapr_iommu::window::WindowRequest;
use spapr_iommu_tests::by_address::ByAddress;
use std::env;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::process::ExitCode;
use std::sync::Arc;
use strum::{EnumIter, FromRepr, IntoStaticStr};

/// Holds the seed of a worker.
pub(crate) const WORD: &str = "SPAPR_IOMMU_WORKER";
/// Registered whole, or as two halves.
pub(crate) const RAM: u64 = 8 << 20;
const WINDOW: u64 = 64 << 20;
/// Unit of maps: every window supports it.
const UNIT: u64 = 64 << 10;

/// Phases of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, EnumIter, FromRepr, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[repr(u8)]
pub(crate) enum Phase {
    #[default]
    Start,
    Attach,
    Register,
    CreateWindow,
    Map,
    Unmap,
    Join,
    Leave,
    Release,
    RemoveWindow,
    Detach,
}

/// How far a worker got.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) phase: Phase,
    /// Completed rounds.
    pub(crate) rounds: u32,
    /// Windows created or started, except the default window.
    pub(crate) windows: u32,
}

/// File in which a worker records its phase, so that it can be read after the worker's death: its
/// standard output.
#[derive(Debug)]
pub(crate) struct Diary(File);

impl Diary {
    pub(crate) fn new(file: File) -> Self {
        Self(file)
    }

    fn of_this_process() -> io::Result<Self> {
        Ok(Self(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    fn write(&self, entry: Entry) -> io::Result<()> {
        let [a, b, c, d] = entry.rounds.to_ne_bytes();
        let [e, f, g, h] = entry.windows.to_ne_bytes();
        self.0.write_all_at(&[entry.phase as u8, a, b, c, d, e, f, g, h], 0)
    }

    /// Returns the last entry.
    pub(crate) fn read(&self) -> io::Result<Entry> {
        let mut entry = [0; 9];
        if self.0.read_at(&mut entry, 0)? < entry.len() {
            return Ok(Entry::default());
        }
        let [phase, a, b, c, d, windows @ ..] = entry;
        Ok(Entry {
            phase: Phase::from_repr(phase).unwrap_or_default(),
            rounds: u32::from_ne_bytes([a, b, c, d]),
            windows: u32::from_ne_bytes(windows),
        })
    }
}

/// Returns the seed, if this process is a worker.
pub(crate) fn asked() -> Option<u64> {
    env::var(WORD).ok()?.parse().ok()
}

/// Works until it is killed. Returns only on failure.
pub(crate) fn work(seed: u64) -> ExitCode {
    if let Err(error) = Worker::new(seed).and_then(|mut worker| worker.rounds()) {
        eprintln!("worker {seed}: {error:?}");
    }
    ExitCode::FAILURE
}

struct Worker {
    rng: Rng,
    diary: Diary,
    entry: Entry,
    groups: [Group; 2],
    ram: UserRange,
    registry: Registry,
}

impl Worker {
    fn new(seed: u64) -> Result<Self, Failed> {
        let host = Arc::new(Vfio::new());
        let diary = Diary::of_this_process()?;
        let groups = groups(&host)?;
        let ram = host.allocate(RAM, host.page_shift())?;
        Ok(Self {
            rng: Rng::with_seed(seed),
            diary,
            entry: Entry::default(),
            groups,
            ram,
            registry: Registry::new(host),
        })
    }

    fn rounds(&mut self) -> Result<(), Failed> {
        loop {
            self.round()?;
            self.entry.rounds += 1;
        }
    }

    /// Records the next phase.
    fn at(&mut self, phase: Phase) -> Result<(), Failed> {
        self.entry.phase = phase;
        self.entry.windows += u32::from(matches!(phase, Phase::CreateWindow | Phase::Join));
        Ok(self.diary.write(self.entry)?)
    }

    fn round(&mut self) -> Result<(), Failed> {
        let space = AddressSpace::new(&self.registry);
        // Leases may precede the first container.
        let early = self.rng.bool();
        let mut leases = if early { self.lease()? } else { Vec::new() };
        self.at(Phase::Attach)?;
        space.attach(self.groups[0])?;
        if !early {
            leases = self.lease()?;
        }
        // The default window is large and slow to clear.
        if self.rng.u8(..8) != 0 {
            space.drop_default_window()?;
        }
        self.at(Phase::CreateWindow)?;
        let window = space.create_window(&WindowRequest::bytes(WINDOW))?.range.start().0;
        self.maps(&space, window)?;
        let first_gone = self.rng.bool();
        if first_gone {
            self.at(Phase::Release)?;
            self.drop_all(&space, &mut leases)?;
        }
        if self.rng.bool() {
            self.at(Phase::RemoveWindow)?;
            space.unmap(IovaRange::new(Iova(window), WINDOW)?)?;
            space.remove_window(Iova(window))?;
        }
        self.at(Phase::Detach)?;
        drop(space);
        self.at(Phase::Release)?;
        leases.clear();
        Ok(())
    }

    fn lease(&mut self) -> Result<Vec<Lease>, Failed> {
        self.at(Phase::Register)?;
        let middle = UserAddr(self.ram.start().0 + RAM / 2);
        let pieces = [UserRange::between(self.ram.start(), middle), UserRange::between(middle, self.ram.end())];
        let whole = [Some(self.ram), None];
        let wanted = if self.rng.bool() { whole } else { pieces };
        Ok(wanted.into_iter().flatten().map(|range| self.registry.lease(range)).collect::<Result<_, _>>()?)
    }

    /// Maps and unmaps in the window, while the second group comes and goes.
    fn maps(&mut self, space: &AddressSpace, window: u64) -> Result<(), Failed> {
        let mut joined = false;
        for _ in 0..self.rng.u32(4..12) {
            match self.rng.u8(..8) {
                0 if joined => {
                    self.at(Phase::Leave)?;
                    space.detach(self.groups[1])?;
                    joined = false;
                }
                0 => {
                    self.at(Phase::Join)?;
                    space.attach(self.groups[1])?;
                    joined = true;
                }
                1 | 2 => {
                    self.at(Phase::Unmap)?;
                    space.unmap(IovaRange::new(Iova(window + self.rng.u64(0..WINDOW / RAM) * RAM), RAM)?)?;
                }
                _ => {
                    self.at(Phase::Map)?;
                    let place = self.rng.u64(0..WINDOW / RAM) * RAM;
                    let first = self.rng.u64(0..RAM / UNIT);
                    let len = self.rng.u64(1..=RAM / UNIT - first) * UNIT;
                    let iova = IovaRange::new(Iova(window + place + first * UNIT), len)?;
                    let user = UserAddr(self.ram.start().0 + first * UNIT);
                    space.unmap(iova)?;
                    space.map(iova, user, Permission::ReadWrite)?;
                }
            }
        }
        Ok(())
    }

    /// Releases what it can: leases of memory that is still mapped are dropped, and the memory is
    /// freed with the last TCE.
    fn drop_all(&mut self, space: &AddressSpace, leases: &mut Vec<Lease>) -> Result<(), Failed> {
        for lease in leases.drain(..) {
            match lease.release() {
                Ok(()) => {}
                Err(refused) if refused.mapped.is_empty() => return Err(format!("{refused:?}").into()),
                Err(refused) if self.rng.bool() => drop(refused),
                Err(refused) => {
                    for iova in refused.mapped {
                        space.unmap(iova)?;
                    }
                    drop(refused.lease);
                }
            }
        }
        Ok(())
    }
}
