//! One step, as a value that means the same on every host: files and memory by number, user addresses by offset.

use super::super::value::{MOST_GROUPS, number};
use core::fmt;
use core::str::FromStr;
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::memory::Protection;
use spapr_iommu::host::{Call, Fd};

/// A file that may be open: `container0`, `group0`, `device0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// A container.
    Container(usize),
    /// A group, counted from 0 among those with vfio-pci.
    Group(usize),
    /// A device.
    Device(DeviceFile),
}

/// A file of a group's first device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceFile {
    /// Its group, counted as [`Slot::Group`] is, which must be open to open the device.
    pub group: usize,
    /// Which file.
    pub which: Which,
}

/// Which file of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// `device0`.
    First,
    /// `device0-again`: a second file of the same device.
    Again,
    /// `device0-absent`: a device the group does not have, which cannot be opened.
    Absent,
}

const WHICH: [(Which, &str); 3] = [(Which::First, ""), (Which::Again, "-again"), (Which::Absent, "-absent")];
const CONTAINER: &str = "container";
const GROUP: &str = "group";
const DEVICE: &str = "device";
const MEMORY: &str = "memory";
/// Kinds of files, each counted.
const KINDS: usize = 2 + WHICH.len();

/// A call names no file of a host, but its number here.
impl From<Slot> for Fd {
    fn from(slot: Slot) -> Self {
        let (kind, count) = match slot {
            Slot::Container(n) => (0, n),
            Slot::Group(n) => (1, n),
            Slot::Device(DeviceFile { group, which }) => (2 + which as usize, group),
        };
        Self(u32::try_from(count.saturating_mul(KINDS).saturating_add(kind)).unwrap_or(u32::MAX))
    }
}

impl From<Fd> for Slot {
    fn from(fd: Fd) -> Self {
        let (kind, count) = (fd.0 as usize % KINDS, fd.0 as usize / KINDS);
        match kind {
            0 => Self::Container(count),
            1 => Self::Group(count),
            kind => Self::Device(DeviceFile { group: count, which: WHICH[kind - 2].0 }),
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(n) => write!(f, "{CONTAINER}{n}"),
            Self::Group(n) => write!(f, "{GROUP}{n}"),
            Self::Device(DeviceFile { group, which }) => write!(f, "{DEVICE}{group}{}", WHICH[*which as usize].1),
        }
    }
}

/// A count behind the name of what is counted.
fn counted(text: &str, kind: &str) -> Option<usize> {
    let digits = text.strip_prefix(kind)?;
    let count = digits.parse().ok().filter(|count| *count < MOST_GROUPS)?;
    // One way to write it.
    (digits == format!("{count}")).then_some(count)
}

impl FromStr for Slot {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(n) = counted(text, CONTAINER) {
            return Ok(Self::Container(n));
        }
        if let Some(n) = counted(text, GROUP) {
            return Ok(Self::Group(n));
        }
        let device = |(which, ending): &(Which, &str)| {
            let group = counted(text.strip_suffix(ending)?, DEVICE)?;
            Some(Self::Device(DeviceFile { group, which: *which }))
        };
        WHICH.iter().find_map(device).ok_or(())
    }
}

/// Memory, counted in the order it was allocated: `memory0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MemoryName(pub usize);

impl fmt::Display for MemoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{MEMORY}{}", self.0)
    }
}

impl FromStr for MemoryName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        counted(text, MEMORY).map(Self).ok_or(())
    }
}

/// A user address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Where {
    /// In, or near, a piece of memory: `memory0+0x1000`. Address 0 where there is no such memory.
    Memory {
        /// Which one.
        slot: usize,
        /// From its start on.
        offset: i64,
    },
    /// A number, whatever lies there.
    Fixed(u64),
}

impl fmt::Display for Where {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { slot, offset: 0 } => write!(f, "{MEMORY}{slot}"),
            Self::Memory { slot, offset } if *offset < 0 => write!(f, "{MEMORY}{slot}-{:#x}", offset.unsigned_abs()),
            Self::Memory { slot, offset } => write!(f, "{MEMORY}{slot}+{offset:#x}"),
            Self::Fixed(address) => write!(f, "{address:#x}"),
        }
    }
}

impl FromStr for Where {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if let Some(address) = number(text) {
            return Ok(Self::Fixed(address));
        }
        let slot = |name: &str| name.parse().map(|MemoryName(slot)| slot);
        if let Some((name, offset)) = text.split_once('+') {
            let offset = number(offset).and_then(|offset| i64::try_from(offset).ok()).ok_or(())?;
            return Ok(Self::Memory { slot: slot(name)?, offset });
        }
        if let Some((name, offset)) = text.split_once('-') {
            let offset = number(offset).and_then(|offset| 0_i64.checked_sub_unsigned(offset)).ok_or(())?;
            return Ok(Self::Memory { slot: slot(name)?, offset });
        }
        Ok(Self::Memory { slot: slot(text)?, offset: 0 })
    }
}

/// A part of a piece of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Which memory, in the order it was allocated.
    pub slot: usize,
    /// From its start on.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// What is done, bare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Opens a file. When it was open already and opens again, the first is closed.
    Open(Slot),
    /// Closes a file, if it is open.
    Close(Slot),
    /// Gets the next piece of memory, aligned to the largest IOMMU page, or to its own page when that is hugetlb's.
    Allocate {
        /// Bytes.
        size: u64,
        /// hugetlb pages of that size; the host's when none is given.
        page: Option<PageShift>,
    },
    /// Gives a part of memory back: there is a hole.
    Free(Part),
    /// Changes what the process may do with a part of memory.
    Protect(Part, Protection),
    /// Fills memory: the n-th 4 KiB of the part with the byte XOR n.
    Fill(Part, u8),
    /// Compares memory with what [`Step::Fill`] would put there: 1 when it differs.
    Check(Part, u8),
    /// A device reads bytes at one bus address and writes them to another.
    Dma {
        /// Its file.
        device: Slot,
        /// Where it reads.
        from: u64,
        /// Where it writes.
        to: u64,
        /// Bytes.
        len: u64,
    },
    /// An ioctl.
    Call {
        /// The file it goes to.
        file: Slot,
        /// Its argument. `vaddr` in it stands for `user`, a file in it for a [`Slot`].
        call: Call,
        /// The user address, if it has one.
        user: Where,
    },
}

impl Step {
    /// The group it needs, if it opens one.
    pub(in super::super) fn group(&self) -> Option<usize> {
        match self {
            Self::Open(Slot::Group(group) | Slot::Device(DeviceFile { group, .. })) => Some(*group),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_written_in_one_way() {
        for text in ["container0", "group255", "device1", "device1-again", "device0-absent"] {
            let slot: Slot = text.parse().unwrap();
            assert_eq!(slot.to_string(), text);
            assert_eq!(Slot::from(Fd::from(slot)), slot);
        }
        for text in
            ["", "container", "container00", "container+1", "group256", "device-again", "device0-other", "disk0"]
        {
            assert_eq!(text.parse::<Slot>(), Err(()), "{text}");
        }
    }

    #[test]
    fn user_addresses_reach_both_ways() {
        for text in ["memory0", "memory3+0x1000", "memory0-0x8000000000000000", "0xffffffffffffffff", "0x0"] {
            assert_eq!(text.parse::<Where>().unwrap().to_string(), text);
        }
        assert_eq!("memory0+64K".parse(), Ok(Where::Memory { slot: 0, offset: 0x10000 }));
        for text in ["", "ram+0x1000", "memory0+", "memory0+0x8000000000000000", "memory0-0x8000000000000001", "-1"] {
            assert_eq!(text.parse::<Where>(), Err(()), "{text}");
        }
    }
}
