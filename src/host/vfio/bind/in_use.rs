//! Finds uses of a device by the host: if its driver were unbound meanwhile, the driver would wait
//! forever, or the host would lose data or its network.

use super::super::sysfs::{self, DeviceNumber, Kernel, Roots, names};
use crate::host::Errno;
use core::fmt;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A use of a device by the host.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum InUse {
    /// A file system on it is mounted.
    Mounted {
        /// The block device.
        block: String,
        /// Where.
        point: String,
    },
    /// The kernel swaps to it.
    Swap {
        /// The block device.
        block: String,
    },
    /// Something in the kernel holds it: device mapper, md, a file system that another mount
    /// namespace sees.
    Held {
        /// The block device.
        block: String,
        /// Block devices that are made of it.
        by: Vec<String>,
    },
    /// A network interface is up.
    Interface {
        /// Its name.
        name: String,
    },
}

impl InUse {
    /// Returns what to do about it.
    pub(super) fn remedy(&self) -> String {
        match self {
            Self::Mounted { point, .. } => format!("`umount '{point}'`"),
            Self::Swap { block } => format!("`swapoff /dev/{block}`"),
            Self::Held { block, .. } => format!("`lsblk /dev/{block}` shows what is on it; stop that"),
            Self::Interface { name } => format!("`ip link set {name} down`, if this machine can do without"),
        }
    }
}

impl fmt::Display for InUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounted { block, point } => write!(f, "its {block} is mounted on {point}"),
            Self::Swap { block } => write!(f, "its {block} is swap"),
            Self::Held { block, by } if by.is_empty() => write!(f, "the kernel holds its {block}"),
            Self::Held { block, by } => write!(f, "its {block} is part of {}", by.join(", ")),
            Self::Interface { name } => write!(f, "its network interface {name} is up"),
        }
    }
}

/// Returns the first use of a device that is found.
pub(super) fn find(roots: &Roots, kernel: &dyn Kernel, address: &str) -> Option<InUse> {
    let device = fs::canonicalize(roots.pci(address)).ok()?;
    block_devices(roots, &device).into_iter().find_map(|block| used(roots, kernel, block)).or_else(|| {
        let interfaces = names(&roots.sys.join("class/net")).into_iter();
        let up = |name: &String| {
            let path = roots.sys.join("class/net").join(name);
            fs::canonicalize(&path).is_ok_and(|real| real.starts_with(&device)) && is_up(&path)
        };
        interfaces.into_iter().find(up).map(|name| InUse::Interface { name })
    })
}

/// Returns the block devices of a device, partitions included, in order.
fn block_devices(roots: &Roots, device: &Path) -> BTreeSet<String> {
    let class = roots.sys.join("class/block");
    let is_its = |name: &String| fs::canonicalize(class.join(name)).is_ok_and(|path| belongs(&path, device));
    names(&class).into_iter().filter(is_its).collect()
}

/// Returns whether a block device is below the device itself, or is an NVMe namespace with several
/// paths, which lies beside the links to its controllers.
fn belongs(block: &Path, device: &Path) -> bool {
    let is_below = |path: PathBuf| fs::canonicalize(path).is_ok_and(|path| path.starts_with(device));
    let subsystem = |path: &&Path| path.parent().is_some_and(|parent| parent.ends_with("nvme-subsystem"));
    block.starts_with(device)
        || block
            .ancestors()
            .find(subsystem)
            .is_some_and(|path| names(path).iter().any(|name| is_below(path.join(name))))
}

fn used(roots: &Roots, kernel: &dyn Kernel, block: String) -> Option<InUse> {
    let class = roots.sys.join("class/block");
    let stack = stack(&class, &block);
    let numbers: Vec<_> = stack.iter().filter_map(|name| number(&class.join(name))).collect();
    let is_of = |source: &str| node(roots, source).is_some_and(|name| stack.contains(&name));
    // File systems over several devices (btrfs) have a number of their own; their source is one of
    // the devices.
    let mount = sysfs::mounted(roots).into_iter().find(|mount| numbers.contains(&mount.device) || is_of(&mount.source));
    if let Some(mount) = mount {
        return Some(InUse::Mounted { block, point: mount.point });
    }
    let swaps = fs::read_to_string(roots.proc.join("swaps")).unwrap_or_default();
    if swaps.lines().filter_map(|line| line.split_ascii_whitespace().next()).any(|path| is_of(&sysfs::plain(path))) {
        return Some(InUse::Swap { block });
    }
    let held = stack.len() > 1 || kernel.claim_block(&roots.dev.join(&block)) == Err(Errno::EBUSY);
    let by = stack.into_iter().filter(|name| *name != block).collect();
    held.then_some(InUse::Held { block, by })
}

/// Returns the block device and all that are stacked on it.
fn stack(class: &Path, block: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![block.to_owned()];
    while let Some(name) = left.pop() {
        if found.insert(name.clone()) {
            left.extend(names(&class.join(name).join("holders")));
        }
    }
    found
}

/// Returns the name of the block device at a path such as `/dev/mapper/root`.
fn node(roots: &Roots, source: &str) -> Option<String> {
    let path = roots.dev.join(source.strip_prefix("/dev/")?);
    let path = fs::canonicalize(&path).unwrap_or(path);
    Some(path.file_name()?.to_str()?.to_owned())
}

fn number(block: &Path) -> Option<DeviceNumber> {
    let text = fs::read_to_string(block.join("dev")).ok()?;
    let (major, minor) = text.trim().split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn is_up(interface: &Path) -> bool {
    let flags = fs::read_to_string(interface.join("flags")).unwrap_or_default();
    let flags = flags.trim().strip_prefix("0x").and_then(|digits| u32::from_str_radix(digits, 16).ok());
    flags.is_some_and(|flags| flags & libc::IFF_UP as u32 != 0)
}

#[cfg(test)]
mod tests {
    use super::super::super::fixture::Fixture;
    use super::super::tests::Fake;
    use super::*;
    use crate::pci::Group;

    const DEVICE: &str = "0000:00:01.0";
    const DISK: &str = "devices/pci0000:00/0000:00:01.0/nvme/nvme0/nvme0n1";

    /// A machine with one device, a disk with a partition, and another disk elsewhere.
    fn machine() -> Fixture {
        let fixture = Fixture::power("6.12.0");
        fixture.device(Group(7), DEVICE, (0x1b36, 0x0010), Some("nvme"));
        block(&fixture, DISK, "259:0");
        block(&fixture, &format!("{DISK}/nvme0n1p1"), "259:1");
        block(&fixture, "devices/vio/71000000/sda", "8:0");
        fixture
    }

    fn block(fixture: &Fixture, path: &str, number: &str) {
        let name = path.rsplit('/').next().unwrap();
        fixture.write(&format!("sys/{path}/dev"), &format!("{number}\n"));
        fixture.link(&format!("sys/class/block/{name}"), &format!("../../{path}"));
        fixture.write(&format!("dev/{name}"), "");
    }

    fn found(fixture: &Fixture) -> Option<InUse> {
        find(&fixture.roots(), &Fake::default(), DEVICE)
    }

    fn mounted(block: &str, point: &str) -> Option<InUse> {
        Some(InUse::Mounted { block: block.to_owned(), point: point.to_owned() })
    }

    #[test]
    fn an_idle_disk_is_not_in_use_whatever_others_do() {
        let fixture = machine();
        fixture.write("proc/self/mountinfo", "22 1 8:0 / / rw shared:1 - ext4 /dev/sda rw\n");
        fixture.write("proc/swaps", "Filename Type Size Used Priority\n/dev/sdb partition 1 0 -2\n");
        assert_eq!(found(&fixture), None);
    }

    #[test]
    fn a_mount_is_named_with_its_partition() {
        let fixture = machine();
        fixture.write("proc/self/mountinfo", "22 1 259:1 / /srv rw shared:1 - ext4 /dev/root rw\n");
        assert_eq!(found(&fixture), mounted("nvme0n1p1", "/srv"));
        fixture.write("proc/self/mountinfo", "22 1 0:31 / /home rw shared:1 - btrfs /dev/nvme0n1p1 rw\n");
        let found = found(&fixture);
        assert_eq!(found, mounted("nvme0n1p1", "/home"));
        assert_eq!(found.unwrap().remedy(), "`umount '/home'`");
    }

    #[test]
    fn a_mount_on_device_mapper_is_traced_to_the_disk() {
        let fixture = machine();
        block(&fixture, "devices/virtual/block/dm-0", "253:0");
        fixture.write(&format!("sys/{DISK}/nvme0n1p1/holders/dm-0/dev"), "253:0\n");
        let held = InUse::Held { block: "nvme0n1p1".to_owned(), by: vec!["dm-0".to_owned()] };
        assert_eq!(found(&fixture), Some(held));
        fixture.write("proc/self/mountinfo", "22 1 253:0 / / rw - ext4 /dev/mapper/root rw\n");
        assert_eq!(found(&fixture), mounted("nvme0n1p1", "/"));
        fixture.write("proc/self/mountinfo", "");
        fixture.link("dev/mapper/swap", "../dm-0");
        fixture.write("proc/swaps", "/dev/mapper/swap partition 1 0 -2\n");
        assert_eq!(found(&fixture), Some(InUse::Swap { block: "nvme0n1p1".to_owned() }));
    }

    #[test]
    fn a_disk_that_cannot_be_claimed_is_held() {
        let fixture = machine();
        let kernel = Fake::busy("nvme0n1");
        let held = InUse::Held { block: "nvme0n1".to_owned(), by: vec![] };
        assert_eq!(find(&fixture.roots(), &kernel, DEVICE), Some(held));
    }

    #[test]
    fn a_namespace_with_several_paths_is_its_controllers_too() {
        let fixture = machine();
        let subsystem = "devices/virtual/nvme-subsystem/nvme-subsys1";
        block(&fixture, &format!("{subsystem}/nvme1n1"), "259:7");
        fixture.write("proc/self/mountinfo", "22 1 259:7 / /mnt rw - xfs /dev/nvme1n1 rw\n");
        assert_eq!(found(&fixture), None, "another controller's");
        fixture.link(&format!("sys/{subsystem}/nvme0"), "../../../pci0000:00/0000:00:01.0/nvme/nvme0");
        assert_eq!(found(&fixture), mounted("nvme1n1", "/mnt"));
    }

    #[test]
    fn an_interface_that_is_up_is_in_use() {
        let fixture = machine();
        let path = "devices/pci0000:00/0000:00:01.0/net/eth0";
        fixture.link("sys/class/net/eth0", &format!("../../{path}"));
        fixture.write(&format!("sys/{path}/flags"), "0x1002\n");
        assert_eq!(found(&fixture), None);
        fixture.write(&format!("sys/{path}/flags"), "0x1003\n");
        assert_eq!(found(&fixture), Some(InUse::Interface { name: "eth0".to_owned() }));
    }
}
