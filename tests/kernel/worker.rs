//! A process that does all there is to do without pause, until it is killed.

use crate::groups;
use fastrand::Rng;
use libtest_mimic::Failed;
use spapr_iommu::addr::{Iova, IovaRange, UserAddr, UserRange};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{Host, Memory};
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::{Lease, Registry};
use spapr_iommu::space::AddressSpace;
use spapr_iommu::window::WindowRequest;
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
/// Leased whole or as two pieces of unequal size, the smaller one a quarter.
const RAM: u64 = 8 << 20;
const WINDOW: u64 = 64 << 20;
/// What a map is a multiple of: carried by every window.
const UNIT: u64 = 64 << 10;

/// What a worker is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EnumIter, FromRepr, IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[repr(u8)]
pub(crate) enum Phase {
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

/// Where a worker writes down what it is at, so that it can be read once it is dead: the file that is its output.
#[derive(Debug)]
pub(crate) struct Diary(File);

impl Diary {
    pub(crate) fn new(file: File) -> Self {
        Self(file)
    }

    fn of_this_process() -> io::Result<Self> {
        Ok(Self(File::from(io::stdout().as_fd().try_clone_to_owned()?)))
    }

    fn write(&self, phase: Phase, rounds: u32) -> io::Result<()> {
        let [a, b, c, d] = rounds.to_ne_bytes();
        self.0.write_all_at(&[phase as u8, a, b, c, d], 0)
    }

    /// The last entry: the phase, and the rounds that were complete.
    pub(crate) fn read(&self) -> io::Result<(Phase, u32)> {
        let mut entry = [0; 5];
        if self.0.read_at(&mut entry, 0)? < entry.len() {
            return Ok((Phase::Start, 0));
        }
        let [phase, rounds @ ..] = entry;
        Ok((Phase::from_repr(phase).unwrap_or(Phase::Start), u32::from_ne_bytes(rounds)))
    }
}

/// The seed, if this process is a worker.
pub(crate) fn asked() -> Option<u64> {
    env::var(WORD).ok()?.parse().ok()
}

/// Works until it is killed. Returns only when something fails.
pub(crate) fn work(seed: u64) -> ExitCode {
    if let Err(error) = Worker::new(seed).and_then(|mut worker| worker.rounds()) {
        eprintln!("worker {seed}: {error:?}");
    }
    ExitCode::FAILURE
}

struct Worker {
    rng: Rng,
    diary: Diary,
    rounds: u32,
    groups: [u32; 2],
    ram: UserRange,
    registry: Registry,
}

impl Worker {
    fn new(seed: u64) -> Result<Self, Failed> {
        let host = Arc::new(Vfio::new());
        let diary = Diary::of_this_process()?;
        diary.write(Phase::Start, 0)?;
        let groups = groups(&host)?;
        let ram = host.allocate(RAM, host.page_shift())?;
        Ok(Self { rng: Rng::with_seed(seed), diary, rounds: 0, groups, ram, registry: Registry::new(host) })
    }

    fn rounds(&mut self) -> Result<(), Failed> {
        loop {
            self.round()?;
            self.rounds += 1;
        }
    }

    /// Tells what comes next.
    fn at(&self, phase: Phase) -> Result<(), Failed> {
        Ok(self.diary.write(phase, self.rounds)?)
    }

    fn round(&mut self) -> Result<(), Failed> {
        let space = AddressSpace::new(&self.registry);
        // Leases may be older than the first container.
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
        let middle = UserAddr(self.ram.start().0 + if self.rng.bool() { RAM / 4 } else { RAM - RAM / 4 });
        let pieces = [UserRange::between(self.ram.start(), middle), UserRange::between(middle, self.ram.end())];
        let whole = [Some(self.ram), None];
        let wanted = if self.rng.bool() { whole } else { pieces };
        Ok(wanted.into_iter().flatten().map(|range| self.registry.register(range)).collect::<Result<_, _>>()?)
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

    /// Releases what can be: leases of memory that is still mapped are dropped, and the memory goes with the last TCE.
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
