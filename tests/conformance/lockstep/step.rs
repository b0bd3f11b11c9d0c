//! One step, as a value that means the same on both sides: files and memory by slot, addresses by offset.

use core::fmt;
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::Call;
use spapr_iommu::host::memory::Protection;

/// A file that may be open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    Container(usize),
    Group(usize),
    Device(usize),
}

pub(crate) const CONTAINERS: usize = 3;
pub(crate) const GROUPS: usize = 2;
/// The first two are files of one device, the third is another group's, the fourth has a name that does not exist.
pub(crate) const DEVICES: usize = 4;
/// The group each device's file belongs to.
pub(crate) const GROUP_OF: [usize; DEVICES] = [0, 0, 1, 0];
pub(crate) const FILES: usize = CONTAINERS + GROUPS + DEVICES;

impl Slot {
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Container(n) => n,
            Self::Group(n) => CONTAINERS + n,
            Self::Device(n) => CONTAINERS + GROUPS + n,
        }
    }

    pub(crate) fn from_index(index: usize) -> Self {
        match index {
            n if n < CONTAINERS => Self::Container(n),
            n if n < CONTAINERS + GROUPS => Self::Group(n - CONTAINERS),
            n => Self::Device(n - CONTAINERS - GROUPS),
        }
    }
}

/// A user address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Where {
    /// In, or near, a piece of memory.
    Memory { slot: usize, offset: i64 },
    /// Where neither side has anything.
    Fixed(u64),
}

/// A part of a piece of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) slot: usize,
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    Open(Slot),
    Close(Slot),
    /// Gets the next piece of memory.
    Allocate {
        size: u64,
        page: PageShift,
    },
    Free(Part),
    Protect(Part, Protection),
    /// Fills memory with a byte that differs from page to page.
    Fill(Part, u8),
    /// An ioctl. `vaddr` in the call stands for `user`, a file in it for a slot's index.
    Call {
        file: Slot,
        call: Call,
        user: Where,
    },
    /// A device reads bytes at one bus address and writes them to another.
    Dma {
        device: Slot,
        from: u64,
        to: u64,
        len: u64,
    },
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(n) => write!(f, "container{n}"),
            Self::Group(n) => write!(f, "group{n}"),
            Self::Device(n) => write!(f, "device{n}"),
        }
    }
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { slot, offset } if *offset < 0 => write!(f, "memory{slot}-{:#x}", offset.unsigned_abs()),
            Self::Memory { slot, offset } => write!(f, "memory{slot}+{offset:#x}"),
            Self::Fixed(address) => write!(f, "{address:#x}"),
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory{}+{:#x} size={:#x}", self.slot, self.offset, self.len)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(slot) => write!(f, "open {slot}"),
            Self::Close(slot) => write!(f, "close {slot}"),
            Self::Allocate { size, page } => write!(f, "allocate size={size:#x} in {page} pages"),
            Self::Free(part) => write!(f, "free {part}"),
            Self::Protect(part, protection) => write!(f, "protect {part} {protection:?}"),
            Self::Fill(part, byte) => write!(f, "fill {part} with {byte:#04x}"),
            Self::Call { file, call, user } => {
                write!(f, "{file}: {}", call.name())?;
                arguments(f, call, user)
            }
            Self::Dma { device, from, to, len } => write!(f, "{device}: DMA {from:#x} -> {to:#x} size={len:#x}"),
        }
    }
}

fn arguments(f: &mut fmt::Formatter<'_>, call: &Call, user: &Where) -> fmt::Result {
    match call {
        Call::CheckExtension(n) | Call::SetIommu(n) => write!(f, " {n}"),
        Call::GroupSetContainer(fd) => write!(f, " {}", Slot::from_index(fd.0 as usize)),
        Call::TceGetInfo(a) => write!(f, " argsz={}", a.argsz),
        Call::GroupGetStatus(a) => write!(f, " argsz={}", a.argsz),
        Call::DeviceGetInfo(a) => write!(f, " argsz={}", a.argsz),
        Call::DeviceGetRegionInfo(a) => write!(f, " argsz={} index={}", a.argsz, a.index),
        Call::RegisterMemory(a) | Call::UnregisterMemory(a) => {
            write!(f, " argsz={} flags={:#x} {user} size={:#x}", a.argsz, a.flags, a.size)
        }
        Call::MapDma(a) => {
            write!(f, " argsz={} flags={:#x} {:#x} -> {user} size={:#x}", a.argsz, a.flags, a.iova, a.size)
        }
        Call::UnmapDma(a) => write!(f, " argsz={} flags={:#x} {:#x} size={:#x}", a.argsz, a.flags, a.iova, a.size),
        Call::TceCreate(a) => write!(
            f,
            " argsz={} flags={:#x} page_shift={} size={:#x} levels={}",
            a.argsz, a.flags, a.page_shift, a.window_size, a.levels
        ),
        Call::TceRemove(a) => write!(f, " argsz={} flags={:#x} {:#x}", a.argsz, a.flags, a.start_addr),
        Call::EehPeOp(a) => write!(f, " argsz={} flags={:#x} op={} func={}", a.argsz, a.flags, a.op, a.err.func),
        _ => Ok(()),
    }
}
