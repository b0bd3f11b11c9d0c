//! Errors of an address space.

use crate::addr::{Iova, IovaRange, List, PageShift, UserAddr};
use crate::error::ErrorKind;
use crate::host::calls::CallError;
use crate::host::{Errno, Obstacle, Platform};
use crate::pci::Group;
use crate::registry::{PinError, RegisterError};
use crate::window::PlanError;
use core::fmt;
use rangemap::RangeSet;

/// Why a mapping was not made. Nothing has changed, except with [`MapError::NotRestored`]; the
/// default window may have been created for it, and stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum MapError {
    /// No group is attached.
    #[error("{asked}: no group is attached to this address space: attach one first")]
    NoGroup { asked: IovaRange },
    /// No window holds it, and none can be created that does.
    #[error("no window holds {asked}: {why}")]
    NoWindow {
        asked: IovaRange,
        /// Why no window can be made; part of the message, so no source.
        why: PlanError,
    },
    /// Not whole IOMMU pages.
    #[error("{asked} is not aligned to the window's {page} pages: align start and length")]
    Misaligned { asked: IovaRange, page: PageShift },
    /// The user address is not aligned to an IOMMU page.
    #[error("{asked}: user address {user} is not aligned to the window's {page} pages: align the memory")]
    UserMisaligned { asked: IovaRange, user: UserAddr, page: PageShift },
    /// Something is mapped there.
    #[error("{asked} overlaps {present}, which is mapped to user {user}: unmap it first, or replace it")]
    Overlap {
        asked: IovaRange,
        /// The first mapping in the way, cut to the request.
        present: IovaRange,
        user: UserAddr,
    },
    /// Two requests of one call overlap.
    #[error("{first} and {second} of one call overlap: request each bus address once")]
    Twice { first: IovaRange, second: IovaRange },
    /// The memory cannot be mapped.
    #[error(transparent)]
    Memory(#[from] PinError),
    /// The window it needs could not be created.
    #[error(transparent)]
    Window(#[from] WindowError),
    /// The kernel refused; the earlier mappings are restored.
    #[error(transparent)]
    Refused(CallError),
    /// The kernel refused, and also refused to restore the earlier mappings.
    #[error(transparent)]
    NotRestored(#[from] NotRestored),
}

crate::error::classify!(MapError {
    Argument: Misaligned, UserMisaligned, Twice;
    NotFound: NoGroup;
    Busy: Overlap;
    inner: NoWindow.why, Memory.0, Window.0, Refused.0, NotRestored.0;
});

/// The kernel refused a change, and then refused to undo it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRestored {
    /// The call that failed first.
    pub cause: CallError,
    /// Mappings that no longer exist.
    pub lost: Vec<IovaRange>,
    /// Bus addresses that devices may still reach although nothing should be mapped there. The
    /// memory stays registered.
    pub left: Vec<IovaRange>,
}

impl NotRestored {
    /// Returns what the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Inconsistent
    }

    /// Returns a stable name of the cause.
    pub fn code(&self) -> &'static str {
        "not-restored"
    }

    pub(super) fn new(cause: CallError) -> Self {
        Self { cause, lost: Vec::new(), left: Vec::new() }
    }

    /// Adds `ranges` that devices may still reach.
    pub(super) fn leaves(&mut self, ranges: impl IntoIterator<Item = IovaRange>) {
        let all: RangeSet<u64> = self.left.iter().copied().chain(ranges).map(|range| range.raw()).collect();
        self.left = all.iter().filter_map(IovaRange::from_raw).collect();
    }
}

impl std::error::Error for NotRestored {}

impl fmt::Display for NotRestored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cause)?;
        if !self.lost.is_empty() {
            f.write_str("; these mappings could not be restored, map them again:")?;
            self.lost.iter().try_for_each(|range| write!(f, " {range}"))?;
        }
        if !self.left.is_empty() {
            f.write_str("; devices may still reach these bus addresses, unmap them:")?;
            self.left.iter().try_for_each(|range| write!(f, " {range}"))?;
        }
        Ok(())
    }
}

/// Why an unmap was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum UnmapError {
    /// No window holds it.
    #[error("{asked} lies in no window: nothing is mapped there")]
    NoWindow { asked: IovaRange },
    /// Not whole IOMMU pages.
    #[error("{asked} is not aligned to the window's {page} pages: align start and length")]
    Misaligned { asked: IovaRange, page: PageShift },
    /// The kernel refused; everything is mapped as before.
    #[error(transparent)]
    Refused(CallError),
    /// The kernel refused, and also refused to restore the earlier mappings.
    #[error(transparent)]
    NotRestored(#[from] NotRestored),
}

crate::error::classify!(UnmapError {
    Argument: Misaligned;
    NotFound: NoWindow;
    inner: Refused.0, NotRestored.0;
});

/// Why a window was not created or removed. No window has changed, except where the error says so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum WindowError {
    /// No group is attached.
    #[error("no group is attached to this address space: attach one first")]
    NoGroup,
    /// No plan leads to it.
    #[error(transparent)]
    Refused(#[from] PlanError),
    /// The kernel refused a step of the plan.
    #[error("{error}{}", Gone(gone))]
    Call { error: CallError, gone: Vec<Iova> },
    /// The kernel placed the window elsewhere than planned; it was removed again.
    #[error(
        "the kernel placed the window at {start} where {expected} was expected; it was removed again: map at {start}"
    )]
    Elsewhere {
        start: Iova,
        /// Start in the plan or in the other containers.
        expected: Iova,
    },
}

crate::error::classify!(WindowError {
    NotFound: NoGroup;
    Kernel: Elsewhere;
    inner: Refused.0, Call.error;
});

impl WindowError {
    /// The kernel refused a call before any window was removed.
    pub(super) fn call(error: CallError) -> Self {
        Self::Call { error, gone: Vec::new() }
    }
}

/// Displays the windows that were removed before a plan failed.
struct Gone<'a>(&'a [Iova]);

impl fmt::Display for Gone<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        write!(f, "; windows removed to make room: {}", List(self.0))
    }
}

/// Why a group was not attached or detached. Nothing has changed, except with
/// [`AttachError::NotRestored`]: then the group is detached, and mappings of the others are lost.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum AttachError {
    /// An obstacle that the user can remove.
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    /// A file cannot be opened.
    #[error("cannot open {what}: {errno}")]
    Open { what: String, errno: Errno },
    /// The host is not a POWER machine, or does not report its platform.
    #[error("the host does not say whether it is powernv or pseries: is this a POWER machine?")]
    NoPlatform,
    /// The kernel speaks another version of VFIO.
    #[error("the kernel's VFIO has version {version}, this library speaks {}", crate::uapi::vfio::API_VERSION)]
    Version { version: i32 },
    /// The kernel has no sPAPR TCE v2 driver.
    #[error("the kernel has no sPAPR TCE v2 container: `modprobe vfio_iommu_spapr_tce`, with Linux 6.12 or newer")]
    NoV2,
    /// The group is already in this space.
    #[error("group {group} is attached already")]
    AttachedAlready { group: Group },
    /// The group is not in this space.
    #[error("group {group} is not attached to this address space")]
    NotAttached { group: Group },
    /// pseries containers hold one group.
    #[error("a container holds one group on {platform}: attach group {group} with a container of its own")]
    OneGroup {
        /// The platform.
        platform: Platform,
        /// The group.
        group: Group,
    },
    /// The group's file was handed in with open devices, so it cannot be put in another group's
    /// container.
    #[error(
        "the file of group {group} was handed in with open devices, so the group stays in its container: attach it by \
         itself, or hand its file in before its devices are opened"
    )]
    InContainer {
        /// The group.
        group: Group,
    },
    /// A device of the group is in use.
    #[error("{count} device handles of group {group} are open: drop them first")]
    DevicesOpen { group: Group, count: usize },
    /// The group's windows differ from the space's.
    #[error("group {group} cannot have the windows of this address space: {why}")]
    Windows {
        group: Group,
        /// Why; part of the message, so no source.
        why: WindowError,
    },
    /// The group's PHB offers other windows than the space's.
    #[error(
        "group {group} has another default window or other IOMMU pages than this address space: use a space of its own"
    )]
    OtherFacts { group: Group },
    /// Registered memory cannot be registered in its container.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// A call failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The others' mappings could not be restored after the group was detached.
    #[error(transparent)]
    NotRestored(#[from] NotRestored),
}

crate::error::classify!(AttachError {
    NotFound: NotAttached;
    Busy: AttachedAlready, InContainer, DevicesOpen;
    Unsupported: NoPlatform, Version, OneGroup, OtherFacts;
    Setup: NoV2;
    Kernel: Open;
    inner: Obstacle.0, Windows.why, Register.0, Call.0, NotRestored.0;
});

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Memlock, MemlockError};

    #[test]
    fn wrapped_errors_keep_their_kind_and_code() {
        let memlock = Memlock { limit: Some(0), locked: 0, unlimited: false };
        let over = MemlockError::OverLimit { what: "a test", needed: 1, missing: 1, memlock };
        let pin = PinError::from(RegisterError::from(over.clone()));
        let window = WindowError::from(PlanError::from(over));
        let attach = AttachError::Windows { group: Group(0), why: window.clone() };
        let found = [
            (pin.kind(), pin.code()),
            (window.kind(), window.code()),
            (attach.kind(), attach.code()),
            (MapError::from(pin).kind(), MapError::from(window).code()),
        ];
        assert_eq!(found, [(ErrorKind::Memlock, "over-limit"); 4]);
        assert_eq!((WindowError::NoGroup.kind(), WindowError::NoGroup.code()), (ErrorKind::NotFound, "no-group"));
    }
}
