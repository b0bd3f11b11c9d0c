//! State of a process while it makes raw calls: open files, and memory.

use super::step::{DeviceFile, Part, Slot, Step, Where, Which};
use crate::by_address;
use crate::edu::{self, EduError};
use crate::machine::is_vfio;
use spapr_iommu::Group;
use spapr_iommu::addr::{PageShift, UserAddr, UserRange};
use spapr_iommu::host::{Call, Errno, Fd, GroupFacts, Host, Memory, Node};
use spapr_iommu::uapi::vfio::{PCI_BAR0_REGION_INDEX, PCI_CONFIG_REGION_INDEX};
use std::collections::BTreeMap;

/// The largest IOMMU page, to which memory is aligned.
const ALIGNED: PageShift = PageShift::P1G;
/// Bytes filled or compared at a time.
const CHUNK: u64 = 64 << 10;
/// Address of a device that no group has.
const ABSENT: &str = "0000:ff:1f.7";

/// Files by [`Slot`], memory in the order it was allocated. Dropping it closes nothing.
#[derive(Clone, Debug)]
pub struct Process {
    /// Number of each group, and name of its device.
    groups: Vec<(Group, String)>,
    files: BTreeMap<Slot, Fd>,
    /// Pieces of memory.
    pub memory: Vec<UserRange>,
}

/// A result, and the call's structure afterwards.
pub type Done = (Result<i32, Errno>, Option<Call>);

impl Process {
    /// Creates a process with nothing open. Groups are numbered as in `groups`, without those that
    /// have no device with vfio-pci.
    pub fn new(groups: Vec<GroupFacts>) -> Self {
        let ours = |group: GroupFacts| {
            let device = group.devices.into_iter().find(|device| is_vfio(device.driver.as_deref()))?;
            Some((group.number, device.address))
        };
        Self { groups: groups.into_iter().filter_map(ours).collect(), files: BTreeMap::new(), memory: Vec::new() }
    }

    /// Returns an open file.
    pub fn fd(&self, slot: Slot) -> Option<Fd> {
        self.files.get(&slot).copied()
    }

    /// Iterates over the open files, containers first.
    pub fn open_files(&self) -> impl Iterator<Item = (Slot, Fd)> {
        self.files.iter().map(|(slot, fd)| (*slot, *fd))
    }

    /// Closes everything: devices, then groups, then containers.
    pub fn close_all(&mut self, host: &dyn Host) {
        while let Some((_, fd)) = self.files.pop_last() {
            host.close(fd);
        }
    }

    /// Runs a step.
    pub fn run(&mut self, host: &dyn Host, memory: &dyn Memory, step: &Step) -> Done {
        if let Step::Call { file, call, user } = step {
            let mut here = self.translate(call, user);
            let Some(fd) = self.fd(*file) else { return (Err(Errno::EBADF), None) };
            let result = by_address::call(host, fd, &mut here);
            return (result, Some(untranslate(here, call)));
        }
        (self.run_plain(host, memory, step), None)
    }

    fn run_plain(&mut self, host: &dyn Host, memory: &dyn Memory, step: &Step) -> Result<i32, Errno> {
        match step {
            Step::Open(slot) => self.open(host, *slot)?,
            Step::Close(slot) => {
                if let Some(fd) = self.files.remove(slot) {
                    host.close(fd);
                }
            }
            Step::Allocate { size, page } => {
                let range = allocate(memory, *size, host.page_shift(), *page)?;
                self.memory.push(range);
            }
            Step::Free(part) => memory.free(self.existing(part)?)?,
            Step::Protect(part, protection) => memory.protect(self.existing(part)?, *protection)?,
            Step::Fill(part, byte) => {
                for (at, data) in pieces(self.existing(part)?, *byte) {
                    memory.write(at, &data)?;
                }
            }
            Step::Check(part, byte) => {
                for (at, wanted) in pieces(self.existing(part)?, *byte) {
                    let mut found = vec![0; wanted.len()];
                    memory.read(at, &mut found)?;
                    if found != wanted {
                        return Ok(1);
                    }
                }
            }
            Step::Dma { device, from, to, len } => {
                let fd = self.fd(*device).ok_or(Errno::EBADF)?;
                dma(host, fd, *from, *to, *len)?;
            }
            Step::Call { .. } => {}
        }
        Ok(0)
    }

    fn open(&mut self, host: &dyn Host, slot: Slot) -> Result<(), Errno> {
        let group = |n: usize| self.groups.get(n).ok_or(Errno::ENOENT);
        let fd = match slot {
            Slot::Container(_) => host.open(Node::Container)?,
            Slot::Group(n) => host.open(Node::Group(group(n)?.0))?,
            Slot::Device(DeviceFile { group: n, which }) => {
                let file = self.fd(Slot::Group(n)).ok_or(Errno::EBADF)?;
                let name = if which == Which::Absent { ABSENT } else { &group(n)?.1 };
                host.open(Node::Device { group: file, name })?
            }
        };
        if let Some(before) = self.files.insert(slot, fd) {
            host.close(before);
        }
        Ok(())
    }

    fn existing(&self, part: &Part) -> Result<UserRange, Errno> {
        self.range(part).ok_or(Errno::EINVAL)
    }

    /// Returns the user range of a part; `None` if it extends past its memory.
    pub fn range(&self, part: &Part) -> Option<UserRange> {
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
            Call::GroupSetContainer(fd) => *fd = self.fd(Slot::from(*fd)).unwrap_or(Fd(u32::MAX)),
            _ => {}
        }
        here
    }
}

/// Restores the inputs that differ from host to host.
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

/// Allocates memory whose address is aligned alike on every host, to the largest IOMMU page;
/// hugetlb memory to its page. It has holes on both sides, for calls that reach beyond it.
fn allocate(memory: &dyn Memory, size: u64, host: PageShift, page: Option<PageShift>) -> Result<UserRange, Errno> {
    if let Some(page) = page.filter(|page| *page != host) {
        let with_both_ends =
            page.bytes().checked_mul(2).and_then(|ends| size.checked_add(ends)).ok_or(Errno::ENOMEM)?;
        let all = memory.allocate(with_both_ends, page)?;
        let range = UserRange::new(UserAddr(all.start().0 + page.bytes()), size).map_err(|_| Errno::EINVAL)?;
        return within(memory, all, range);
    }
    let size = host.ceil(size).filter(|size| *size != 0).ok_or(Errno::EINVAL)?;
    let all = memory.allocate(size.checked_add(ALIGNED.bytes()).ok_or(Errno::ENOMEM)?, host)?;
    let start = UserAddr(ALIGNED.ceil(all.start().0).ok_or(Errno::ENOMEM)?);
    let range = UserRange::new(start, size).map_err(|_| Errno::EINVAL)?;
    within(memory, all, range)
}

/// Leaves holes on both sides.
fn within(memory: &dyn Memory, all: UserRange, range: UserRange) -> Result<UserRange, Errno> {
    let rest = [UserRange::between(all.start(), range.start()), UserRange::between(range.end(), all.end())];
    rest.into_iter().flatten().try_for_each(|rest| memory.free(rest))?;
    Ok(range)
}

/// Yields what a fill writes to `range`.
fn pieces(range: UserRange, byte: u8) -> impl Iterator<Item = (UserAddr, Vec<u8>)> {
    range.chunks(CHUNK).map(move |piece| {
        let first = piece.start().0 - range.start().0;
        (piece.start(), (first..first + piece.len()).map(|at| byte ^ of_page(at)).collect())
    })
}

/// Returns the byte that varies from page to page of a fill.
fn of_page(at: u64) -> u8 {
    (at >> 12) as u8
}

/// Describes a piece of memory by the fills that could have made it, in as few parts as possible.
/// Omits what cannot be read.
pub fn contents(memory: &dyn Memory, slot: usize, range: UserRange) -> Vec<(Part, u8)> {
    let mut found: Vec<(Part, u8)> = Vec::new();
    for page in range.chunks(1 << 12) {
        let mut data = vec![0; page.len() as usize];
        if memory.read(page.start(), &mut data).is_err() {
            continue;
        }
        for (at, byte) in (page.start().0 - range.start().0..).zip(data) {
            match found.last_mut() {
                Some((part, first)) if part.offset + part.len == at && byte == *first ^ of_page(part.len) => {
                    part.len += 1;
                }
                _ => found.push((Part { slot, offset: at, len: 1 }, byte)),
            }
        }
    }
    found
}

/// Makes an `edu` device, whose file is open, read bytes at one bus address and write them at
/// another.
pub fn dma(host: &dyn Host, device: Fd, from: u64, to: u64, len: u64) -> Result<(), Errno> {
    edu::enable(&*host.region(device, PCI_CONFIG_REGION_INDEX)?)?;
    let bar = host.region(device, PCI_BAR0_REGION_INDEX)?;
    edu::copy(&*bar, from, to, len, |_| {}).map_err(|error| match error {
        EduError::Access(errno) => errno,
        EduError::Stuck => Errno::ETIMEDOUT,
        _ => Errno::EIO,
    })
}
