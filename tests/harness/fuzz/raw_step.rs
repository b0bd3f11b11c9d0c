//! A raw call, or an action of the process besides calls.

use super::raw::Regions;
use crate::by_address::RunCall;
use arbitrary::{Arbitrary, Result, Unstructured};
use spapr_iommu::Group;
use spapr_iommu::addr::{PageShift, UserAddr, UserRange};
use spapr_iommu::host::Protection;
use spapr_iommu::host::{Call, Errno, Fd, Host, Memory, Node};
use spapr_iommu::model::{MemoryKind, Model};
use spapr_iommu::uapi::{eeh, spapr, vfio};

/// Start of the model's memory.
const MEMORY: u64 = 1 << 44;
/// Start of the second window.
const HIGH: u64 = 1 << 59;

#[derive(Clone, Debug)]
pub enum Step {
    Open(Option<u32>),
    OpenDevice(u32, bool),
    Close(u32),
    /// A call on the first container.
    Call(Call),
    CallOn(u32, Call),
    OpenRegion(u32, u32),
    CloseRegion(u8),
    Read {
        region: u8,
        offset: u64,
        len: u8,
    },
    Write {
        region: u8,
        offset: u64,
        value: u64,
        len: u8,
    },
    /// A device moves memory: source, destination, length.
    Move {
        region: u8,
        iova: u64,
        to_memory: bool,
        len: u16,
    },
    Allocate(u64, u32),
    Free(u64, u64),
    Protect(u64, u64, Protection),
    Declare(u64, u64, MemoryKind),
    Touch(u64, u8),
    Eeh(u32, i32),
}

fn below(u: &mut Unstructured<'_>, end: u8) -> Result<u64> {
    Ok(u.int_in_range(0..=end - 1)?.into())
}

/// Generates numbers near the boundaries that matter.
fn number(u: &mut Unstructured<'_>) -> Result<u64> {
    let kind = below(u, 32)?;
    Ok(match kind {
        0..=7 => below(u, 32)? << 16,
        8..=15 => MEMORY + (below(u, 32)? << 16),
        16..=19 => HIGH + (below(u, 32)? << 16),
        20..=22 => [0, MEMORY, HIGH][kind as usize - 20] + (below(u, 64)? << 12),
        23 | 24 => 1 << below(u, 64)?,
        25 => (1_u64 << below(u, 64)?).wrapping_sub(below(u, 32)? << 12),
        26 => (1_u64 << below(u, 64)?).wrapping_add(below(u, 3)?),
        27 => MEMORY + (below(u, 32)? << 21),
        28 => u64::MAX - below(u, 3)?,
        29 => below(u, 4)?,
        _ => u.arbitrary()?,
    })
}

fn fd(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(3 + below(u, 40)? as u32)
}

fn argsz(u: &mut Unstructured<'_>) -> Result<u32> {
    Ok(if u.ratio(1, 16)? { below(u, 64)? as u32 } else { 64 })
}

fn flags(u: &mut Unstructured<'_>) -> Result<u32> {
    if u.ratio(1, 16)? { u.arbitrary() } else { Ok(0) }
}

fn memory(u: &mut Unstructured<'_>) -> Result<spapr::RegisterMemory> {
    Ok(spapr::RegisterMemory { argsz: argsz(u)?, flags: flags(u)?, vaddr: number(u)?, size: number(u)? })
}

fn call(u: &mut Unstructured<'_>) -> Result<Call> {
    Ok(match below(u, 40)? {
        0 => Call::SetIommu([2, 7, 7, u.arbitrary()?][below(u, 4)? as usize]),
        1 => Call::GroupSetContainer(Fd(fd(u)?)),
        2 => Call::GroupUnsetContainer,
        3 => [Call::Enable, Call::Disable, Call::DeviceReset, Call::GetApiVersion][below(u, 4)? as usize],
        4 => Call::TceGetInfo(spapr::TceInfo { argsz: argsz(u)?, ..Default::default() }),
        5 => Call::CheckExtension(below(u, 10)? as u32),
        6 => Call::GroupGetStatus(vfio::GroupStatus { argsz: argsz(u)?, ..Default::default() }),
        7 => Call::DeviceGetInfo(vfio::DeviceInfo { argsz: argsz(u)?, ..Default::default() }),
        8 => {
            let (argsz, index) = (argsz(u)?, below(u, 12)? as u32);
            Call::DeviceGetRegionInfo(vfio::RegionInfo { argsz, index, ..Default::default() })
        }
        9 => {
            Call::DeviceGetIrqInfo(vfio::IrqInfo { argsz: argsz(u)?, index: below(u, 8)? as u32, ..Default::default() })
        }
        10 => Call::EehPeOp(eeh::PeOp { argsz: argsz(u)?, flags: flags(u)?, op: flags(u)?, ..Default::default() }),
        11 => Call::EehPeOp(eeh::PeOp { argsz: argsz(u)?, op: below(u, 12)? as u32, ..Default::default() }),
        12..=17 => Call::RegisterMemory(memory(u)?),
        18..=20 => Call::UnregisterMemory(memory(u)?),
        21..=28 => {
            let (argsz, flags) = (argsz(u)?, [3, 3, 1, 2, 0, 4, 7, 3][below(u, 8)? as usize]);
            Call::MapDma(vfio::DmaMap { argsz, flags, vaddr: number(u)?, iova: number(u)?, size: number(u)? })
        }
        29..=32 => {
            Call::UnmapDma(vfio::DmaUnmap { argsz: argsz(u)?, flags: flags(u)?, iova: number(u)?, size: number(u)? })
        }
        33..=36 => {
            let (argsz, flags) = (argsz(u)?, flags(u)?);
            let page_shift = [12, 16, 21, 24, 28, 30, below(u, 70)? as u32, u.arbitrary()?][below(u, 8)? as usize];
            let (window_size, levels) = (number(u)?, below(u, 7)? as u32);
            Call::TceCreate(spapr::TceCreate { argsz, flags, page_shift, window_size, levels, ..Default::default() })
        }
        _ => Call::TceRemove(spapr::TceRemove { argsz: argsz(u)?, flags: flags(u)?, start_addr: number(u)? }),
    })
}

impl<'a> Arbitrary<'a> for Step {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(match below(u, 64)? {
            0 | 1 => Self::Open(u.arbitrary::<bool>()?.then_some(below(u, 4)? as u32)),
            2 => Self::OpenDevice(fd(u)?, u.ratio(7, 8)?),
            3 | 4 => Self::Close(fd(u)?),
            5 => Self::OpenRegion(fd(u)?, [0, 7, 7, below(u, 12)? as u32][below(u, 4)? as usize]),
            6 => Self::CloseRegion(u.arbitrary()?),
            7 => Self::Read { region: u.arbitrary()?, offset: number(u)?, len: u.arbitrary()? },
            8 => Self::Write {
                region: u.arbitrary()?,
                offset: number(u)?,
                value: u.arbitrary()?,
                len: below(u, 9)? as u8,
            },
            9 | 10 => {
                Self::Move { region: u.arbitrary()?, iova: number(u)?, to_memory: u.arbitrary()?, len: u.arbitrary()? }
            }
            11 | 12 => Self::Allocate(number(u)?, [12, 16, 21, 24, 30, 34][below(u, 6)? as usize]),
            13 => Self::Free(number(u)?, number(u)?),
            14 => {
                let protections = [Protection::None, Protection::Read, Protection::ReadWrite];
                Self::Protect(number(u)?, number(u)?, protections[below(u, 3)? as usize])
            }
            15 | 16 => {
                let huge = PageShift::new(12 + below(u, 20)? as u32).unwrap_or(PageShift::P2M);
                let kinds = [
                    MemoryKind::Ordinary,
                    MemoryKind::TransparentHuge,
                    MemoryKind::Huge(huge),
                    MemoryKind::Device,
                    MemoryKind::Hole,
                ];
                Self::Declare(number(u)?, number(u)?, kinds[below(u, 5)? as usize])
            }
            17 | 18 => Self::Touch(number(u)?, u.arbitrary()?),
            19 => Self::Eeh(below(u, 4)? as u32, below(u, 6)? as i32),
            20..=27 => Self::CallOn(fd(u)?, call(u)?),
            _ => Self::Call(call(u)?),
        })
    }
}

fn user(start: u64, len: u64) -> Option<UserRange> {
    UserRange::new(UserAddr(start), len).ok()
}

impl Step {
    /// Returns whether it requests a v1 container, whose entries are not counted.
    pub fn wants_v1(&self) -> bool {
        matches!(self, Self::Call(Call::SetIommu(spapr::TCE_IOMMU)) | Self::CallOn(_, Call::SetIommu(spapr::TCE_IOMMU)))
    }

    /// Runs it and returns a number for the result.
    pub fn run(&self, model: &Model, container: Fd, regions: &mut Regions) -> core::result::Result<u64, Errno> {
        let call = |fd, call: &Call| {
            let mut call = *call;
            model.run_call(fd, &mut call).map(|value| value as u64)
        };
        let region = |regions: &Regions, at: u8| usize::from(at).checked_rem(regions.len());
        match *self {
            Self::Open(None) => model.open(Node::Container).map(|fd| fd.0.into()),
            Self::Open(Some(group)) => model.open(Node::Group(Group(group))).map(|fd| fd.0.into()),
            Self::OpenDevice(group, there) => {
                let groups = model.groups();
                let names: Vec<_> = groups.iter().map(|group| group.devices[0].address.as_str()).collect();
                let open = |name| model.open(Node::Device { group: Fd(group), name }).map(|fd| fd.0.into());
                let first = open(if there { names[0] } else { "nonsense" });
                names[1..].iter().fold(first, |result, name| result.or_else(|_| open(name)))
            }
            Self::Close(fd) => {
                model.close(Fd(fd));
                Ok(0)
            }
            Self::Call(ref kind) => call(container, kind),
            Self::CallOn(fd, ref kind) => call(Fd(fd), kind),
            Self::OpenRegion(fd, index) => model.region(Fd(fd), index).map(|region| {
                let size = region.size();
                regions.push(region);
                size
            }),
            Self::CloseRegion(at) => {
                if let Some(at) = region(regions, at) {
                    regions.remove(at);
                }
                Ok(0)
            }
            Self::Read { region: at, offset, len } => match region(regions, at) {
                Some(at) => regions[at].read(offset, &mut vec![0; len.into()]).map(|()| 0),
                None => Ok(0),
            },
            Self::Write { region: at, offset, value, len } => match region(regions, at) {
                Some(at) => regions[at].write(offset, &value.to_be_bytes()[..usize::from(len).min(8)]).map(|()| 0),
                None => Ok(0),
            },
            Self::Move { region: at, iova, to_memory, len } => match region(regions, at) {
                Some(at) => transfer(regions[at].as_ref(), iova, to_memory, len).map(|()| 0),
                None => Ok(0),
            },
            Self::Allocate(size, page) => {
                let page = PageShift::new(page).unwrap_or(PageShift::P4K);
                model.allocate(size, page).map(|range| range.start().0)
            }
            Self::Free(start, len) => user(start, len).map_or(Ok(0), |range| model.free(range).map(|()| 1)),
            Self::Protect(start, len, protection) => {
                user(start, len).map_or(Ok(0), |range| model.protect(range, protection).map(|()| 1))
            }
            Self::Declare(start, len, kind) => {
                user(start, len).map_or(Ok(0), |range| model.declare(range, kind).map(|()| 1))
            }
            Self::Touch(at, byte) => {
                model.write(UserAddr(at), &[byte])?;
                let mut back = [!byte];
                assert_eq!((model.read(UserAddr(at), &mut back), back), (Ok(()), [byte]));
                Ok(0)
            }
            Self::Eeh(group, state) => {
                model.set_eeh_state(Group(group), state);
                Ok(0)
            }
        }
    }
}

/// Makes an `edu` device move memory; its buffer is at 0x40000.
fn transfer(
    region: &dyn spapr_iommu::host::Region,
    iova: u64,
    to_memory: bool,
    len: u16,
) -> core::result::Result<(), Errno> {
    if region.size() == 256 {
        // The command register: turns memory and bus mastering on.
        return region.write(4, &[6, 0]);
    }
    let (source, destination) = if to_memory { (0x4_0000, iova) } else { (iova, 0x4_0000) };
    let words = [(0x80, source), (0x88, destination), (0x90, len.into()), (0x98, 1 | u64::from(to_memory) << 1)];
    words.iter().try_for_each(|(at, word)| region.write(*at, &word.to_be_bytes()))
}
