//! Why a device is not bound or put back.

use super::InUse;
use crate::error::classify;
use crate::host::{Errno, Obstacle};
use crate::pci::Group;
use core::fmt;

/// Why a device was not bound to vfio-pci, or not put back. Everything is as it was before, except
/// with [`BindError::NotPutBack`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum BindError {
    /// Not the address of a PCI device.
    #[error("{given:?} is not a PCI address: write it as `lspci -D` does, for example 0000:00:01.0")]
    Address { given: String },
    /// There is no such device.
    #[error("there is no PCI device {address} (PCI devices of this machine: {}): give one of these", list(present))]
    NoDevice { address: String, present: Vec<String> },
    /// No permission to write to the kernel.
    #[error("no permission to write {path}: run it as root, for example with `sudo`")]
    NotRoot { path: String },
    /// Records of bindings lie in a folder that is a link, or belongs to another user, who
    /// could have root bind devices to drivers of their choice.
    #[error("{path} is a link or another user's: look at what is there, remove it, and bind again")]
    ForeignRecords { path: String },
    /// A bridge; vfio-pci takes none, and the kernel tolerates bridges in a group that a user owns.
    #[error("{address} is a PCI bridge: leave it to its driver, and bind the devices behind it")]
    Bridge { address: String },
    /// The device has no IOMMU.
    #[error(
        "{address} is in no IOMMU group, so its DMA cannot be confined: the firmware gives it no DMA window, or the kernel \
         has no IOMMU driver for its host bridge; take another device"
    )]
    NoGroup { address: String },
    /// The host uses the device.
    #[error("{address} is in use, {what}: {}", what.remedy())]
    InUse { address: String, what: InUse },
    /// The machine is not set up, or a process has the group open.
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    /// vfio-pci did not accept the device.
    #[error("vfio-pci did not take {address}: `dmesg | tail` shows why")]
    NotTaken { address: String },
    /// vfio-pci has it, but its group cannot be opened.
    #[error(
        "{address} was bound to vfio-pci, but /dev/vfio/{group} did not appear within {seconds} s: see `dmesg | tail`"
    )]
    NoNode { address: String, group: Group, seconds: u64 },
    /// The kernel refused a write.
    #[error("cannot write {text:?} to {path}: {}; `dmesg | tail` may show more", errno.desc())]
    Write { path: String, text: String, errno: Errno },
    /// The device could not be put back to the driver it was bound to.
    #[error(
        "{address} was bound to {} before, and is bound to {} now: load the driver if it is missing, then \
         `spapr-iommu unbind {address}` tries again{}",
        name(wanted.as_deref()), name(driver.as_deref()), Because(why.as_deref())
    )]
    NotPutBack { address: String, wanted: Option<String>, driver: Option<String>, why: Option<Box<BindError>> },
}

classify!(BindError {
    Argument: Address, Bridge;
    NotFound: NoDevice;
    Setup: NotRoot, ForeignRecords;
    Unsupported: NoGroup;
    Busy: InUse;
    Kernel: NotTaken, NoNode, Write;
    Inconsistent: NotPutBack;
    inner: Obstacle.0;
});

fn name(driver: Option<&str>) -> &str {
    driver.unwrap_or("no driver")
}

fn list(addresses: &[String]) -> String {
    if addresses.is_empty() { "none".to_owned() } else { addresses.join(", ") }
}

/// Displays the failure that came first, if any.
struct Because<'a>(Option<&'a BindError>);

impl fmt::Display for Because<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |why| write!(f, "; it began with: {why}"))
    }
}
