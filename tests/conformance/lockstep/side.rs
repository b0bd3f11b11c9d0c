//! One side: a host with its files and memory by slot, and what can be seen of it.

use super::dma;
use super::step::{FILES, GROUP_OF, Part, Slot, Step, Where};
use core::hash::{Hash, Hasher};
use spapr_iommu::addr::{PageShift, UserAddr, UserRange};
use spapr_iommu::host::model::{Model, Preset};
use spapr_iommu::host::{Call, Errno, Fd, Host, Memory, Node};
use spapr_iommu::uapi::{spapr, vfio};
use std::hash::DefaultHasher;

/// The largest IOMMU page.
const ALIGNED: PageShift = PageShift::P1G;

/// Larger pieces of memory are only looked at by devices.
const MOST_READ: u64 = 4 << 20;

/// A kernel with memory.
pub(crate) trait Machine: Host + Memory {
    /// Bytes of this process that are locked.
    fn locked(&self) -> u64 {
        self.memlock().map_or(u64::MAX, |memlock| memlock.locked)
    }
}

impl Machine for Model {}

/// The names a machine gives its groups and devices.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) groups: Vec<u32>,
    pub(crate) devices: Vec<String>,
}

pub(crate) struct Side<M> {
    pub(crate) host: M,
    names: Names,
    files: [Option<Fd>; FILES],
    pub(crate) memory: Vec<UserRange>,
    /// Bytes that were locked before anything was done.
    locked: u64,
}

/// What a step came to, and what is to be seen afterwards.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) result: Result<i32, Errno>,
    /// The call's structure with what the kernel wrote back.
    pub(crate) call: Option<Call>,
    /// Bytes locked since the start.
    pub(crate) locked: i128,
    /// GET_INFO of each container and GET_STATUS of each group that is open.
    pub(crate) seen: Vec<(Slot, Result<i32, Errno>, Call)>,
    /// A hash of each piece of memory that is not too large, after DMA.
    pub(crate) contents: Vec<u64>,
}

impl<M: Machine> Side<M> {
    pub(crate) fn new(host: M, names: Names) -> Self {
        let locked = host.locked();
        Self { host, names, files: [None; FILES], memory: Vec::new(), locked }
    }

    pub(crate) fn fd(&self, slot: Slot) -> Option<Fd> {
        self.files[slot.index()]
    }

    /// Does a step and looks round.
    pub(crate) fn apply(&mut self, step: &Step) -> Outcome {
        let done = self.run(step);
        self.outcome(step, done)
    }

    /// What a step that was done came to, and a look round.
    pub(crate) fn outcome(&self, step: &Step, (result, call): (Result<i32, Errno>, Option<Call>)) -> Outcome {
        let contents = match step {
            Step::Dma { .. } => {
                let small = self.memory.iter().filter(|range| range.len() <= MOST_READ);
                small.map(|range| contents(&self.host, *range)).collect()
            }
            _ => Vec::new(),
        };
        Outcome { result, call, locked: self.locked(), seen: self.look(), contents }
    }

    /// Does a step; the second is what the call's structure holds afterwards.
    pub(crate) fn run(&mut self, step: &Step) -> (Result<i32, Errno>, Option<Call>) {
        match step {
            Step::Open(slot) => (self.open(*slot).map(|()| 0), None),
            Step::Close(slot) => {
                if let Some(fd) = self.files[slot.index()].take() {
                    self.host.close(fd);
                }
                (Ok(0), None)
            }
            Step::Allocate { size, page } => {
                let result = allocate(&self.host, *size, *page);
                (result.map(|range| self.memory.push(range)).map(|()| 0), None)
            }
            Step::Free(part) => (self.on(part, |range| self.host.free(range)), None),
            Step::Protect(part, protection) => (self.on(part, |range| self.host.protect(range, *protection)), None),
            Step::Fill(part, byte) => {
                let data: Vec<u8> = (0..part.len).map(|at| byte ^ ((part.offset + at) >> 12) as u8).collect();
                (self.on(part, |range| self.host.write(range.start(), &data)), None)
            }
            Step::Call { file, call, user } => {
                let mut here = self.translate(call, user);
                let Some(fd) = self.fd(*file) else { return (Err(Errno::EBADF), None) };
                let result = self.host.call(fd, &mut here);
                (result, Some(untranslate(here, call)))
            }
            Step::Dma { device, from, to, len } => {
                let Some(fd) = self.fd(*device) else { return (Err(Errno::EBADF), None) };
                (dma::copy(&self.host, fd, *from, *to, *len).map(|()| 0), None)
            }
        }
    }

    fn open(&mut self, slot: Slot) -> Result<(), Errno> {
        let fd = match slot {
            Slot::Container(_) => self.host.open(Node::Container)?,
            Slot::Group(n) => self.host.open(Node::Group(self.names.groups[n]))?,
            Slot::Device(n) => {
                let group = self.fd(Slot::Group(GROUP_OF[n])).ok_or(Errno::EBADF)?;
                self.host.open(Node::Device { group, name: &self.names.devices[n] })?
            }
        };
        // A second opening that succeeds replaces the first.
        if let Some(before) = self.files[slot.index()].replace(fd) {
            self.host.close(before);
        }
        Ok(())
    }

    fn on(&self, part: &Part, what: impl FnOnce(UserRange) -> Result<(), Errno>) -> Result<i32, Errno> {
        what(self.range(part).ok_or(Errno::EINVAL)?).map(|()| 0)
    }

    pub(crate) fn range(&self, part: &Part) -> Option<UserRange> {
        let whole = self.memory.get(part.slot)?;
        let range = UserRange::new(UserAddr(whole.start().0.checked_add(part.offset)?), part.len).ok()?;
        whole.contains_range(&range).then_some(range)
    }

    fn address(&self, user: &Where) -> u64 {
        match user {
            Where::Fixed(address) => *address,
            Where::Memory { slot, offset } => {
                self.memory.get(*slot).map_or(0, |range| range.start().0.wrapping_add_signed(*offset))
            }
        }
    }

    fn translate(&self, call: &Call, user: &Where) -> Call {
        let mut here = *call;
        match &mut here {
            Call::RegisterMemory(a) | Call::UnregisterMemory(a) => a.vaddr = self.address(user),
            Call::MapDma(a) => a.vaddr = self.address(user),
            Call::GroupSetContainer(fd) => {
                *fd = self.files.get(fd.0 as usize).copied().flatten().unwrap_or(Fd(u32::MAX));
            }
            _ => {}
        }
        here
    }

    pub(crate) fn locked(&self) -> i128 {
        i128::from(self.host.locked()) - i128::from(self.locked)
    }

    fn look(&self) -> Vec<(Slot, Result<i32, Errno>, Call)> {
        let open = (0..FILES).map(Slot::from_index).filter_map(|slot| Some((slot, self.fd(slot)?)));
        open.filter_map(|(slot, fd)| {
            let mut call = match slot {
                Slot::Container(_) => Call::TceGetInfo(spapr::TceInfo { argsz: 32, ..Default::default() }),
                Slot::Group(_) => Call::GroupGetStatus(vfio::GroupStatus { argsz: 8, ..Default::default() }),
                Slot::Device(_) => return None,
            };
            let result = self.host.call(fd, &mut call);
            Some((slot, result, call))
        })
        .collect()
    }
}

impl Side<Model> {
    /// Another one in the same state.
    pub(crate) fn fork(&self) -> Self {
        let (names, memory) = (self.names.clone(), self.memory.clone());
        Self { host: self.host.fork(), names, files: self.files, memory, locked: self.locked }
    }
}

/// The first two groups with their devices, as vfio-pci has them.
pub(crate) fn names(host: &impl Host) -> Result<Names, String> {
    let groups: Vec<(u32, String)> = host
        .groups()
        .into_iter()
        .filter_map(|group| {
            let ours = |driver: Option<&str>| driver == Some("vfio-pci");
            let device = group.devices.iter().find(|device| ours(device.driver.as_deref()))?;
            Some((group.number, device.address.clone()))
        })
        .collect();
    match &groups[..] {
        [first, second, ..] => Ok(Names {
            groups: vec![first.0, second.0],
            devices: vec![first.1.clone(), first.1.clone(), second.1.clone(), "0000:ff:1f.7".into()],
        }),
        _ => Err(format!("two groups with vfio-pci are needed, there are {groups:?}")),
    }
}

/// A model from scratch.
pub(crate) fn fresh_model(preset: Preset) -> Result<Side<Model>, String> {
    let model = Model::new(preset);
    let names = names(&model)?;
    Ok(Side::new(model, names))
}

/// Another one, whose files have other numbers and whose memory has other addresses.
pub(crate) fn shifted_model(preset: Preset) -> Result<Side<Model>, String> {
    let side = fresh_model(preset)?;
    side.host.allocate(5 << 20, side.host.page_shift()).map_err(|errno| errno.to_string())?;
    let container = side.host.open(Node::Container).map_err(|errno| errno.to_string())?;
    side.host.close(container);
    Ok(side)
}

/// Memory whose address is aligned alike on both sides, as far as any IOMMU page asks; of hugetlb, to its page.
fn allocate(memory: &impl Machine, size: u64, page: PageShift) -> Result<UserRange, Errno> {
    if page != memory.page_shift() {
        return memory.allocate(size, page);
    }
    let all = memory.allocate(size.checked_add(ALIGNED.bytes()).ok_or(Errno::ENOMEM)?, page)?;
    let start = UserAddr(ALIGNED.ceil(all.start().0).ok_or(Errno::ENOMEM)?);
    let range = UserRange::new(start, size).map_err(|_| Errno::EINVAL)?;
    let rest = [UserRange::between(all.start(), range.start()), UserRange::between(range.end(), all.end())];
    rest.into_iter().flatten().try_for_each(|rest| memory.free(rest))?;
    Ok(range)
}

/// What went in is put back where it differs from side to side.
fn untranslate(mut after: Call, before: &Call) -> Call {
    match (&mut after, before) {
        (Call::RegisterMemory(a), Call::RegisterMemory(b)) | (Call::UnregisterMemory(a), Call::UnregisterMemory(b)) => {
            a.vaddr = b.vaddr;
        }
        (Call::MapDma(a), Call::MapDma(b)) => a.vaddr = b.vaddr,
        (Call::GroupSetContainer(a), Call::GroupSetContainer(b)) => *a = *b,
        _ => {}
    }
    after
}

/// A hash of memory, page by page, with what cannot be read.
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
    /// The result, and what of the rest is not as in `other`.
    pub(crate) fn beside(&self, other: &Self) -> String {
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
