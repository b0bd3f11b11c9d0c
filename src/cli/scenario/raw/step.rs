//! A step, as a value that means the same on every host: files and memory by number, user addresses
//! by offset.

use super::super::value::{MAX_GROUPS, number};
use core::fmt;
use core::str::FromStr;
use spapr_iommu::addr::PageShift;
use spapr_iommu::host::Protection;
use spapr_iommu::host::{Call, Fd};

/// A file that may be open: `container0`, `group0`, `device0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// A container.
    Container(usize),
    /// A group, numbered from 0 among those with vfio-pci.
    Group(usize),
    /// A device.
    Device(DeviceFile),
}

/// A file of a group's first device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceFile {
    /// Its group, numbered like [`Slot::Group`], which must be open to open the device.
    pub group: usize,
    /// Which file of the device.
    pub which: Which,
}

/// The files of a device.
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
/// Number of kinds of files; each is numbered separately.
const KINDS: usize = 2 + WHICH.len();

/// A call does not name files of a host, but their numbers here.
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

/// Parses a number after the name of what is numbered.
fn counted(text: &str, kind: &str) -> Option<usize> {
    let digits = text.strip_prefix(kind)?;
    let count = digits.parse().ok().filter(|count| *count < MAX_GROUPS)?;
    // There is only one way to write it.
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

/// Memory, numbered in the order it was allocated: `memory0`.
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
    /// An address in, or near, a piece of memory: `memory0+0x1000`. Address 0 if there is no such
    /// memory.
    Memory {
        /// Number of the memory.
        slot: usize,
        /// Offset from its start.
        offset: i64,
    },
    /// A fixed address, whatever is there.
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
    /// Number of the memory, in the order of allocation.
    pub slot: usize,
    /// Offset from its start.
    pub offset: u64,
    /// Length in bytes.
    pub len: u64,
}

/// A raw step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Opens a file. If it is already open and opens again, the first is closed.
    Open(Slot),
    /// Closes a file, if it is open.
    Close(Slot),
    /// Allocates the next piece of memory, aligned to the largest IOMMU page, or for hugetlb to its
    /// own page.
    Allocate {
        /// Size in bytes.
        size: u64,
        /// Page size of hugetlb; the host's page if none is given.
        page: Option<PageShift>,
    },
    /// Frees a part of memory, which leaves a hole.
    Free(Part),
    /// Changes the process's access to a part of memory.
    Protect(Part, Protection),
    /// Fills memory: the n-th 4 KiB of the part with the byte XOR n.
    Fill(Part, u8),
    /// Compares memory with what [`Step::Fill`] would write there: 1 if it differs.
    Check(Part, u8),
    /// Makes a device read bytes at one bus address and write them to another.
    Dma {
        /// File of the device.
        device: Slot,
        /// Bus address it reads from.
        from: u64,
        /// Bus address it writes to.
        to: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Makes an ioctl.
    Call {
        /// The file it is made on.
        file: Slot,
        /// Its argument, in which `vaddr` stands for `user`, and a file for a [`Slot`].
        call: Call,
        /// The user address, if the call has one.
        user: Where,
    },
}

impl Step {
    /// Returns the group it needs, if it opens one.
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
