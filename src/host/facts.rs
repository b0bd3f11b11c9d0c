//! What a host says of itself.

use crate::addr::{Amount, PageShift, UserRange};
use core::fmt;

/// Who owns the IOMMU; window rules differ.
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

/// Locked memory of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memlock {
    /// `RLIMIT_MEMLOCK`, bytes; `None` for no limit.
    pub limit: Option<u64>,
    /// `VmLck`, bytes.
    pub locked: u64,
    /// The process has `CAP_IPC_LOCK`: it is counted, not limited.
    pub unlimited: bool,
}

impl Memlock {
    /// Bytes that are missing to lock `more`; 0 when they may be locked.
    pub fn missing(&self, more: u64) -> u64 {
        match self.limit {
            Some(limit) if !self.unlimited => self.locked.saturating_add(more).saturating_sub(limit),
            _ => 0,
        }
    }
}

/// A stretch of user memory of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where.
    pub range: UserRange,
    /// Its page size: the host's, or a huge page's with hugetlb. Transparent huge pages do not count.
    pub page: PageShift,
    /// Whether it can be pinned for DMA: readable, writable memory of the process; not a device's, and
    /// not a shared mapping of a file that is written back to its file system.
    pub pinnable: bool,
}

/// An IOMMU group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupFacts {
    /// Its number: `/dev/vfio/N`.
    pub number: u32,
    /// Its devices, by address.
    pub devices: Vec<PciDevice>,
}

/// A device of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PciDevice {
    /// PCI address, `0000:00:00.0`.
    pub address: String,
    /// Vendor and device identity.
    pub id: (u16, u16),
    /// The driver it is bound to.
    pub driver: Option<String>,
}

/// What stands between a user and VFIO, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum Obstacle {
    /// Not a POWER machine.
    #[error("this machine is no POWER machine ({arch}), sPAPR TCE exists only there: use a `host::model::Model` here")]
    NotPower {
        /// What it is.
        arch: String,
    },
    /// `/dev/vfio/vfio` is missing.
    #[error("/dev/vfio/vfio is missing: load the modules with `modprobe vfio vfio_iommu_spapr_tce vfio-pci`")]
    NoVfio,
    /// A module is missing.
    #[error("the kernel module {module} is not loaded: `modprobe {module}`")]
    NoModule {
        /// Its name.
        module: &'static str,
    },
    /// The kernel cannot do VFIO on POWER.
    #[error("Linux {release} cannot bind vfio-pci on POWER (5.19 to 6.3 refuse it with EINVAL): run 6.12 or newer")]
    KernelTooOld {
        /// Its release.
        release: String,
    },
    /// There is no such group node.
    #[error(
        "/dev/vfio/{group} is missing: no device of IOMMU group {group} is bound to vfio-pci (groups with vfio-pci: {}): \
         bind {}, and the other devices of its group, with `host::vfio::bind::Binder`",
        List(present),
        device.as_deref().unwrap_or("one")
    )]
    NoGroup {
        /// The group that was asked for.
        group: u32,
        /// A device of that group.
        device: Option<String>,
        /// The groups that are there.
        present: Vec<u32>,
    },
    /// No right to open.
    #[error("no permission to open {path}: run as root, or `chown` it to this user")]
    Permission {
        /// The file.
        path: String,
    },
    /// There is no such group at all.
    #[error(
        "IOMMU group {group} does not exist (groups of this machine: {}): take the group of your device from \
         `/sys/bus/pci/devices/ADDRESS/iommu_group`",
        List(known)
    )]
    UnknownGroup {
        /// The group that was asked for.
        group: u32,
        /// The groups that exist.
        known: Vec<u32>,
    },
    /// The group has no such device.
    #[error(
        "IOMMU group {group} has no device {device}, it has {}: give one of these, or the device's own group",
        devices.join(", ")
    )]
    NoDevice {
        /// The group.
        group: u32,
        /// The address that was asked for.
        device: String,
        /// The addresses of the group's devices.
        devices: Vec<String>,
    },
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
    HeldBy {
        /// The group.
        group: u32,
        /// The process's number.
        pid: u32,
        /// Its name.
        process: String,
    },
    /// Somebody has the group open.
    #[error("/dev/vfio/{group} is open elsewhere: a group has one opener at a time; end the other process")]
    Busy {
        /// The group.
        group: u32,
    },
    /// A host driver holds a device of the group.
    #[error(
        "IOMMU group {group} is not viable: {device} is bound to {driver}: bind it to vfio-pci with \
         `host::vfio::bind::Binder`"
    )]
    NotViable {
        /// The group.
        group: u32,
        /// Address of the device.
        device: String,
        /// The driver it is bound to.
        driver: String,
    },
}

struct List<'a>(&'a [u32]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (i, number) in self.0.iter().enumerate() {
            write!(f, "{}{number}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
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
