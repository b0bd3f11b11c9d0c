//! Facts a host reports about itself, and what follows from them: whether memory may be locked, and
//! what is in the way of a user.

use super::{Errno, Host};
use crate::addr::{Amount, List, PageShift, UserRange};
use crate::pci::Group;
use core::fmt;

/// The platform, which decides who owns the IOMMU and which window rules hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// Bare metal: the kernel writes TCE tables in memory.
    Powernv,
    /// A partition or a guest: the kernel asks the hypervisor for each TCE.
    Pseries,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Powernv => "powernv",
            Self::Pseries => "pseries",
        })
    }
}

/// Locked memory of this process and its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memlock {
    /// `RLIMIT_MEMLOCK`, bytes; `None` for no limit.
    pub limit: Option<u64>,
    /// Bytes locked now, from `VmLck`.
    pub locked: u64,
    /// The process has `CAP_IPC_LOCK`: its memory is counted but not limited.
    pub unlimited: bool,
}

impl Memlock {
    /// Reads how much is locked and allowed.
    pub(crate) fn read(host: &dyn Host) -> Result<Self, MemlockError> {
        host.memlock().map_err(MemlockError::Unknown)
    }

    /// Checks that `needed` more bytes may be locked for `what`, besides those that are `promised`.
    ///
    /// Asked before the kernel is, because a refused charge is lost: a failed window creation never
    /// gives its charge back (`tce_iommu_create_table`).
    pub(crate) fn check(self, promised: u64, what: &'static str, needed: u64) -> Result<(), MemlockError> {
        // A charge of zero bytes is never refused, however much is promised to others.
        let missing = if needed == 0 { 0 } else { self.missing(needed.saturating_add(promised)) };
        match (missing, promised) {
            (0, _) => Ok(()),
            (_, 0) => Err(MemlockError::OverLimit { what, needed, missing, memlock: self }),
            _ => Err(MemlockError::OverPromise { what, needed, missing, memlock: self, promised }),
        }
    }

    /// Returns the bytes missing to lock `more`; 0 if they may be locked.
    pub fn missing(&self, more: u64) -> u64 {
        match self.limit {
            Some(limit) if !self.unlimited => self.locked.saturating_add(more).saturating_sub(limit),
            _ => 0,
        }
    }
}

impl fmt::Display for Memlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} locked, ", Amount(self.locked))?;
        match (self.unlimited, self.limit) {
            (true, _) => f.write_str("not limited (CAP_IPC_LOCK)"),
            (false, None) => f.write_str("not limited"),
            (false, Some(limit)) => write!(f, "limit {}", Amount(limit)),
        }
    }
}

/// Why bytes cannot be locked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum MemlockError {
    /// More than the limit allows.
    #[error(
        "{} to lock for {what} are {} more than allowed ({memlock}): raise the limit to {} KiB or more (`ulimit -l`, \
         LimitMEMLOCK= of the service) or give the process CAP_IPC_LOCK",
        Amount(*needed),
        Amount(*missing),
        memlock.locked.saturating_add(*needed).div_ceil(1024)
    )]
    OverLimit {
        /// What asks.
        what: &'static str,
        /// Bytes to lock.
        needed: u64,
        /// Bytes over the limit.
        missing: u64,
        /// What is locked and allowed.
        memlock: Memlock,
    },
    /// Over the limit with what default windows in use will lock.
    #[error(
        "{} to lock for {what} are {} more than allowed ({memlock}, and {} promised to default windows): raise the limit to \
         {} KiB or more (`ulimit -l`, LimitMEMLOCK= of the service) or give the process CAP_IPC_LOCK",
        Amount(*needed),
        Amount(*missing),
        Amount(*promised),
        memlock.locked.saturating_add(*promised).saturating_add(*needed).div_ceil(1024)
    )]
    OverPromise {
        /// What asks.
        what: &'static str,
        /// Bytes to lock.
        needed: u64,
        /// Bytes over the limit.
        missing: u64,
        /// What is locked and allowed.
        memlock: Memlock,
        /// Bytes that default windows in use will lock with their first map.
        promised: u64,
    },
    /// The host does not tell.
    #[error("cannot read how much memory is locked: {0}")]
    Unknown(Errno),
}

crate::error::classify!(MemlockError { Memlock: OverLimit, OverPromise; Kernel: Unknown; });

/// A stretch of user memory of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// User addresses.
    pub range: UserRange,
    /// Page size: the host's, or a huge page's with hugetlb. Transparent huge pages do not count.
    pub page: PageShift,
    /// Whether it can be pinned for DMA: readable, writable memory of the process, neither a
    /// device's nor a shared mapping of a file that is written back to its file system.
    pub pinnable: bool,
}

/// An IOMMU group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFacts {
    /// Group number: `/dev/vfio/N`.
    pub number: Group,
    /// Devices, by address.
    pub devices: Vec<PciDevice>,
}

/// A device of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciDevice {
    /// PCI address, `0000:00:00.0`.
    pub address: String,
    /// Vendor and device ID.
    pub id: (u16, u16),
    /// The driver it is bound to, if any.
    pub driver: Option<String>,
}

/// An obstacle between a user and VFIO, with its remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum Obstacle {
    /// Not a POWER machine.
    #[error("this machine is no POWER machine ({arch}), sPAPR TCE exists only there: use a `model::Model` here")]
    NotPower {
        /// What it is.
        arch: String,
    },
    /// `/dev/vfio/vfio` is missing.
    #[error("/dev/vfio/vfio is missing: load the modules with `modprobe vfio vfio_iommu_spapr_tce vfio-pci`")]
    NoVfio,
    /// A module is missing.
    #[error("the kernel module {module} is not loaded: `modprobe {module}`")]
    NoModule { module: &'static str },
    /// The kernel cannot do VFIO on POWER.
    #[error("Linux {release} cannot bind vfio-pci on POWER (5.19 to 6.3 refuse it with EINVAL): run 6.12 or newer")]
    KernelTooOld { release: String },
    /// The node of the group is missing.
    #[error(
        "/dev/vfio/{group} is missing: no device of IOMMU group {group} is bound to vfio-pci (groups with vfio-pci: {}): \
         bind {}, and the other devices of its group, with `host::vfio::bind::Binder`",
        Groups(present),
        device.as_deref().unwrap_or("one")
    )]
    NoGroup { group: Group, device: Option<String>, present: Vec<Group> },
    /// No permission to open the node.
    #[error("no permission to open {path}: run as root, or `chown` it to this user")]
    Permission { path: String },
    /// The group does not exist.
    #[error(
        "IOMMU group {group} does not exist (groups of this machine: {}): take the group of your device from \
         `/sys/bus/pci/devices/ADDRESS/iommu_group`",
        Groups(known)
    )]
    UnknownGroup { group: Group, known: Vec<Group> },
    /// The group has no such device.
    #[error(
        "IOMMU group {group} has no device {device}, it has {}: give one of these, or the device's own group",
        devices.join(", ")
    )]
    NoDevice { group: Group, device: String, devices: Vec<String> },
    /// The device has no driver.
    #[error("{device} is bound to no driver: bind it to vfio-pci with `host::vfio::bind::Binder`")]
    NotBound {
        /// Address of the device.
        device: String,
    },
    /// A process has the group open.
    #[error(
        "/dev/vfio/{group} is open in {process} (process {pid}): a group has one opener at a time; end that process"
    )]
    HeldBy { group: Group, pid: u32, process: String },
    /// The group is open in another process, which could not be determined.
    #[error("/dev/vfio/{group} is open elsewhere: a group has one opener at a time; end the other process")]
    Busy { group: Group },
    /// A host driver holds a device of the group.
    #[error(
        "IOMMU group {group} is not viable: {device} is bound to {driver}: bind it to vfio-pci with \
         `host::vfio::bind::Binder`"
    )]
    NotViable {
        /// The group.
        group: Group,
        /// Address of the device.
        device: String,
        /// The driver it is bound to.
        driver: String,
    },
}

crate::error::classify!(Obstacle {
    Unsupported: NotPower, KernelTooOld;
    Setup: NoVfio, NoModule, NoGroup, Permission, NotBound, NotViable;
    NotFound: UnknownGroup, NoDevice;
    Busy: HeldBy, Busy;
});

/// Displays groups, or that there is none.
struct Groups<'a>(&'a [Group]);

impl fmt::Display for Groups<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("none") } else { List(self.0).fmt(f) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_counts_what_is_locked_already() {
        let memlock = Memlock { limit: Some(100), locked: 60, unlimited: false };
        assert_eq!(memlock.missing(40), 0);
        assert_eq!(memlock.missing(41), 1);
        assert_eq!(Memlock { unlimited: true, ..memlock }.missing(1 << 40), 0);
        assert_eq!(Memlock { limit: None, ..memlock }.missing(1 << 40), 0);
    }
}
