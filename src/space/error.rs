//! Why an address space refuses, or what the kernel refused it.

use crate::addr::{Iova, IovaRange, PageShift, UserAddr};
use crate::host::calls::CallError;
use crate::host::{Errno, Obstacle, Platform};
use crate::registry::{PinError, RegisterError};
use crate::window::Refusal;
use core::fmt;
use rangemap::RangeSet;

/// Why a mapping was not made. Nothing has changed, but where the error is [`MapError::NotRestored`]; the default window may
/// have come to life for it, and stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum MapError {
    /// No group is attached.
    #[error("{asked}: no group is attached to this address space: attach one first")]
    NoGroup {
        /// What was asked.
        asked: IovaRange,
    },
    /// No window holds it, and none can be made that does.
    #[error("no window holds {asked}: {why}")]
    NoWindow {
        /// What was asked.
        asked: IovaRange,
        /// Why no window can be made; part of the message, so no source.
        why: Refusal,
    },
    /// Not whole IOMMU pages.
    #[error("{asked} is not aligned to the window's {page} pages: align start and length")]
    Misaligned {
        /// What was asked.
        asked: IovaRange,
        /// The window's page.
        page: PageShift,
    },
    /// The user address is not at an IOMMU page.
    #[error("{asked}: user address {user} is not aligned to the window's {page} pages: align the memory")]
    UserMisaligned {
        /// What was asked.
        asked: IovaRange,
        /// Where it should point.
        user: UserAddr,
        /// The window's page.
        page: PageShift,
    },
    /// Something is mapped there.
    #[error("{asked} overlaps {present}, which is mapped to user {user}: unmap it first, or replace it")]
    Overlap {
        /// What was asked.
        asked: IovaRange,
        /// The first mapping in the way, cut to what was asked.
        present: IovaRange,
        /// Where that points.
        user: UserAddr,
    },
    /// Two requests of one call overlap.
    #[error("{first} and {second} of one request overlap: ask for each bus address once")]
    Twice {
        /// One request.
        first: IovaRange,
        /// The other.
        second: IovaRange,
    },
    /// The memory cannot be mapped.
    #[error(transparent)]
    Memory(#[from] PinError),
    /// The window it needs could not be made.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The kernel refused; what was there before is there again.
    #[error(transparent)]
    Refused(CallError),
    /// The kernel refused, and also refused to put back what was there.
    #[error(transparent)]
    NotRestored(#[from] NotRestored),
}

/// The kernel refused a change, and then to undo it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRestored {
    /// What the kernel refused first.
    pub cause: CallError,
    /// Mappings that were there and are not any more.
    pub lost: Vec<IovaRange>,
    /// Bus addresses that devices may still reach, though nothing should be mapped there. The memory stays registered.
    pub left: Vec<IovaRange>,
}

impl NotRestored {
    pub(super) fn new(cause: CallError) -> Self {
        Self { cause, lost: Vec::new(), left: Vec::new() }
    }

    /// Devices may still reach `ranges`, too.
    pub(super) fn leaves(&mut self, ranges: impl IntoIterator<Item = IovaRange>) {
        let all: RangeSet<u64> =
            self.left.iter().copied().chain(ranges).map(|range| range.start().0..range.end().0).collect();
        self.left = all.iter().filter_map(|range| IovaRange::between(Iova(range.start), Iova(range.end))).collect();
    }
}

impl std::error::Error for NotRestored {}

impl fmt::Display for NotRestored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if !self.lost.is_empty() {
            f.write_str("; these mappings could not be put back, map them again:")?;
            self.lost.iter().try_for_each(|range| write!(f, " {range}"))?;
        }
        if !self.left.is_empty() {
            f.write_str("; devices may still reach, unmap it:")?;
            self.left.iter().try_for_each(|range| write!(f, " {range}"))?;
        }
        Ok(())
    }
}

/// Why an unmapping was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum UnmapError {
    /// No window holds it.
    #[error("{asked} lies in no window: nothing is mapped there")]
    NoWindow {
        /// What was asked.
        asked: IovaRange,
    },
    /// Not whole IOMMU pages.
    #[error("{asked} is not aligned to the window's {page} pages: align start and length")]
    Misaligned {
        /// What was asked.
        asked: IovaRange,
        /// The window's page.
        page: PageShift,
    },
    /// The kernel refused; everything is mapped as before.
    #[error(transparent)]
    Refused(CallError),
    /// The kernel refused, and also refused to put back what was there.
    #[error(transparent)]
    NotRestored(#[from] NotRestored),
}

/// Why a window was not made or removed. No window has come or gone, but where the error says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum WindowError {
    /// No group is attached.
    #[error("no group is attached to this address space: attach one first")]
    NoGroup,
    /// There is no plan for it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The kernel refused a step of the plan.
    #[error("{error}{}", Gone(gone))]
    Call {
        /// The call.
        error: CallError,
        /// Windows that made room before, and are gone.
        gone: Vec<Iova>,
    },
    /// It came into being elsewhere than planned, and was removed again.
    #[error(
        "the kernel placed the window at {start} where {expected} was expected; it was removed again: map at {start}"
    )]
    Elsewhere {
        /// Where the kernel placed it.
        start: Iova,
        /// Where the plan or the other containers have it.
        expected: Iova,
    },
}

struct Gone<'a>(&'a [Iova]);

impl fmt::Display for Gone<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((first, rest)) = self.0.split_first() {
            write!(f, "; windows that made room are gone: {first}")?;
            rest.iter().try_for_each(|start| write!(f, ", {start}"))?;
        }
        Ok(())
    }
}

/// Why a group was not attached, or not detached. Nothing has changed, but where the error is
/// [`AttachError::NotRestored`]: then the group is gone, and mappings of the others with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum AttachError {
    /// Something is in the way that the user can mend.
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    /// A file cannot be opened.
    #[error("cannot open {what}: {errno}")]
    Open {
        /// Which.
        what: String,
        /// Why.
        errno: Errno,
    },
    /// The host is no POWER machine, or does not say which.
    #[error("the host does not say whether it is powernv or pseries: is this a POWER machine?")]
    NoPlatform,
    /// The kernel speaks another version of VFIO.
    #[error("the kernel's VFIO has version {version}, this library speaks {}", crate::uapi::vfio::API_VERSION)]
    Version {
        /// The kernel's.
        version: i32,
    },
    /// The kernel has no sPAPR TCE v2 driver.
    #[error("the kernel has no sPAPR TCE v2 container: `modprobe vfio_iommu_spapr_tce`, with Linux 6.12 or newer")]
    NoV2,
    /// The group is in this space.
    #[error("group {group} is attached already")]
    AttachedAlready {
        /// The group.
        group: u32,
    },
    /// The group is not in this space.
    #[error("group {group} is not attached to this address space")]
    NotAttached {
        /// The group.
        group: u32,
    },
    /// pseries containers hold one group.
    #[error("a container holds one group on {platform}: attach group {group} with a container of its own")]
    OneGroup {
        /// The platform.
        platform: Platform,
        /// The group.
        group: u32,
    },
    /// The group's file was handed in with open devices, so it cannot be put in another group's
    /// container.
    #[error(
        "group {group} was handed in with devices open and stays in its container: attach it by itself, or hand it in \
         before its devices are opened"
    )]
    InContainer {
        /// The group.
        group: u32,
    },
    /// A device of the group is in use.
    #[error("{count} device handles of group {group} are open: drop them first")]
    DevicesOpen {
        /// The group.
        group: u32,
        /// How many.
        count: usize,
    },
    /// The group's windows differ from the space's.
    #[error("group {group} cannot have the windows of this address space: {why}")]
    Windows {
        /// The group.
        group: u32,
        /// Why; part of the message, so no source.
        why: WindowError,
    },
    /// The group's PHB offers other windows than the space's.
    #[error(
        "group {group} has another default window or other IOMMU pages than this address space: use a space of its own"
    )]
    OtherFacts {
        /// The group.
        group: u32,
    },
    /// What is registered cannot be registered in its container.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The others' mappings could not be put back after the group left.
    #[error(transparent)]
    NotRestored(#[from] NotRestored),
}
