//! Why a device is not bound or put back.

use super::InUse;
use crate::host::{Errno, Obstacle};
use core::fmt;

/// Why a device was not bound to vfio-pci, or not put back. Everything is as it was before, but
/// where the error is
/// [`BindError::NotPutBack`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
pub enum BindError {
    /// Not the address of a PCI device.
    #[error("{given:?} is not a PCI address: write it as `lspci -D` does, for example 0000:00:01.0")]
    Address {
        /// What was given.
        given: String,
    },
    /// There is no such device.
    #[error("there is no PCI device {address} (PCI devices of this machine: {}): give one of these", list(present))]
    NoDevice {
        /// The address that was asked for.
        address: String,
        /// The addresses of the devices that are there.
        present: Vec<String>,
    },
    /// No right to write where the kernel takes such orders.
    #[error("no permission to write {path}: run it as root, for example with `sudo`")]
    NotRoot {
        /// The file or folder.
        path: String,
    },
    /// Records of bindings lie in a folder that is a link, or belongs to somebody else: who can
    /// write there would have root bind devices to drivers of its choice.
    #[error("{path} is a link or another user's: look at what is there, remove it, and bind again")]
    ForeignRecords {
        /// The folder.
        path: String,
    },
    /// A bridge; vfio-pci takes none, and the kernel tolerates bridges in a group that a user owns.
    #[error("{address} is a PCI bridge: leave it to its driver, and bind the devices behind it")]
    Bridge {
        /// The bridge.
        address: String,
    },
    /// No IOMMU stands before the device.
    #[error(
        "{address} is in no IOMMU group, so its DMA cannot be confined: the firmware gives it no DMA window, or the kernel \
         has no IOMMU driver for its host bridge; take another device"
    )]
    NoGroup {
        /// The device.
        address: String,
    },
    /// The host uses the device.
    #[error("{address} is in use, {what}: {}", what.mend())]
    InUse {
        /// The device.
        address: String,
        /// How.
        what: InUse,
    },
    /// Something of the machine, or whoever has the group open.
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    /// vfio-pci has looked at the device and left it.
    #[error("vfio-pci did not take {address}: `dmesg | tail` shows why")]
    NotTaken {
        /// The device.
        address: String,
    },
    /// vfio-pci has it, but its group cannot be opened.
    #[error(
        "{address} was bound to vfio-pci, but /dev/vfio/{group} did not appear within {seconds} s: see `dmesg | tail`"
    )]
    NoNode {
        /// The device.
        address: String,
        /// Its group.
        group: u32,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The kernel refused a write.
    #[error("cannot write {text:?} to {path}: {}; `dmesg | tail` may tell more", errno.desc())]
    Write {
        /// The file.
        path: String,
        /// What was to be written.
        text: String,
        /// Why not.
        errno: Errno,
    },
    /// The device could not be given back to the driver it was bound to.
    #[error(
        "{address} was bound to {} before, and is bound to {} now: load the driver if it is missing, then \
         `spapr-iommu unbind {address}` tries again{}",
        name(wanted.as_deref()), name(driver.as_deref()), Because(why.as_deref())
    )]
    NotPutBack {
        /// The device.
        address: String,
        /// The driver it was bound to.
        wanted: Option<String>,
        /// The driver it is bound to now.
        driver: Option<String>,
        /// What failed first.
        why: Option<Box<BindError>>,
    },
}

fn name(driver: Option<&str>) -> &str {
    driver.unwrap_or("no driver")
}

fn list(addresses: &[String]) -> String {
    if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") }
}

/// What came before, if anything did.
struct Because<'a>(Option<&'a BindError>);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |why| write!(f, "; it began with: {why}"))
    }
}
