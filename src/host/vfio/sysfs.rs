//! The kernel's own file systems: reads facts about the machine and this process, IOMMU groups and
//! their devices, and mounts; writes what binds a device.

use crate::addr::PageShift;
use crate::host::{Errno, GroupFacts, Memlock, PciDevice, Platform};
use crate::pci::Group;
use core::fmt;
use nix::fcntl::OFlag;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The folders this host reads; tests use another tree in their place.
#[derive(Clone, Debug)]
pub(super) struct Roots {
    pub(super) sys: PathBuf,
    pub(super) proc: PathBuf,
    pub(super) dev: PathBuf,
    pub(super) run: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { sys: "/sys".into(), proc: "/proc".into(), dev: "/dev".into(), run: "/run".into() }
    }
}

impl Roots {
    /// Returns the same folders below another one.
    pub(super) fn below(root: &Path) -> Self {
        let folder = |name| root.join(name);
        Self { sys: folder("sys"), proc: folder("proc"), dev: folder("dev"), run: folder("run") }
    }

    /// Returns the container node.
    pub(super) fn container(&self) -> PathBuf {
        self.dev.join("vfio/vfio")
    }

    /// Returns the node of a group.
    pub(super) fn group(&self, number: Group) -> PathBuf {
        self.dev.join(format!("vfio/{number}"))
    }

    /// Returns the folder of a PCI device.
    pub(super) fn pci(&self, address: &str) -> PathBuf {
        self.sys.join("bus/pci/devices").join(address)
    }

    /// Returns the folder of a PCI driver.
    pub(super) fn driver(&self, name: &str) -> PathBuf {
        self.sys.join("bus/pci/drivers").join(name)
    }
}

/// Bit of `CapEff` that lifts `RLIMIT_MEMLOCK`.
const CAP_IPC_LOCK: u32 = 14;

/// Reads the platform line of `cpuinfo`, which only POWER kernels have.
pub(super) fn platform(roots: &Roots) -> Option<Platform> {
    let cpuinfo = fs::read_to_string(roots.proc.join("cpuinfo")).ok()?;
    match field(&cpuinfo, "platform")? {
        "PowerNV" => Some(Platform::Powernv),
        "pSeries" => Some(Platform::Pseries),
        _ => None,
    }
}

/// Returns the page size of the running kernel.
pub(super) fn page_shift() -> PageShift {
    let bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).and_then(PageShift::from_bytes).unwrap_or(PageShift::P4K)
}

/// Reads how much memory of this process is locked, and its limit.
pub(super) fn memlock(roots: &Roots) -> Result<Memlock, Errno> {
    let (limit, _) = getrlimit(Resource::RLIMIT_MEMLOCK)?;
    let status = fs::read_to_string(roots.proc.join("self/status")).map_err(errno)?;
    let (locked, capable) = parse_status(&status).ok_or(Errno::EIO)?;
    let unlimited = capable && in_first_user_namespace(roots);
    Ok(Memlock { limit: (limit != RLIM_INFINITY).then_some(limit), locked, unlimited })
}

/// Reads the memory available without swapping, in bytes.
pub(super) fn available_memory(roots: &Roots) -> Option<u64> {
    let meminfo = fs::read_to_string(roots.proc.join("meminfo")).ok()?;
    let kilobytes: u64 = field(&meminfo, "MemAvailable")?.strip_suffix("kB")?.trim_end().parse().ok()?;
    kilobytes.checked_mul(1024)
}

/// Parses the locked bytes, and whether the process has `CAP_IPC_LOCK`.
fn parse_status(status: &str) -> Option<(u64, bool)> {
    let locked: u64 = field(status, "VmLck")?.strip_suffix("kB")?.trim_end().parse().ok()?;
    let capabilities = u64::from_str_radix(field(status, "CapEff")?, 16).ok()?;
    Some((locked.checked_mul(1024)?, capabilities >> CAP_IPC_LOCK & 1 == 1))
}

/// Returns whether the process is in the first user namespace, where the kernel checks the
/// capability; root of a container has it only in its own. The first namespace maps every user to
/// itself; a kernel without user namespaces has no map.
fn in_first_user_namespace(roots: &Roots) -> bool {
    match fs::read_to_string(roots.proc.join("self/uid_map")) {
        Ok(map) => map.split_whitespace().eq(["0", "0", "4294967295"]),
        Err(_) => true,
    }
}

/// Returns the value of the first line `key : value`.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim_end() == key).then(|| value.trim())
    })
}

/// Converts a failed read to its error number.
pub(super) fn errno(error: io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Returns the groups with their devices, both in order. Omits what cannot be read: groups come and
/// go.
pub(super) fn groups(roots: &Roots) -> Vec<GroupFacts> {
    let root = roots.sys.join("kernel/iommu_groups");
    let mut groups: Vec<_> = numbers(&root)
        .into_iter()
        .map(|number| GroupFacts {
            number: Group(number),
            devices: devices(&root.join(number.to_string()).join("devices")),
        })
        .collect();
    groups.sort_by_key(|group| group.number);
    groups
}

/// Returns the entries of a folder that are numbers, in order.
pub(super) fn numbers(folder: &Path) -> Vec<u32> {
    let mut numbers: Vec<u32> = names(folder).iter().filter_map(|name| name.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Returns the entries of a folder, in no particular order.
pub(super) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn devices(folder: &Path) -> Vec<PciDevice> {
    let mut addresses = names(folder);
    addresses.sort_unstable();
    addresses.into_iter().map(|address| device(&folder.join(&address), address)).collect()
}

/// Returns the device whose folder is `path`.
pub(super) fn device(path: &Path, address: String) -> PciDevice {
    // PCI reads all ones where there is no device.
    let id = (hex(&path.join("vendor")).unwrap_or(0xffff), hex(&path.join("device")).unwrap_or(0xffff));
    PciDevice { address, id, driver: target(&path.join("driver")) }
}

/// Returns the name of a link's target.
pub(super) fn target(link: &Path) -> Option<String> {
    Some(fs::read_link(link).ok()?.file_name()?.to_str()?.to_owned())
}

fn hex(file: &Path) -> Option<u16> {
    u16::from_str_radix(fs::read_to_string(file).ok()?.trim().strip_prefix("0x")?, 16).ok()
}

/// Major and minor number of a file system.
pub(super) type DeviceNumber = (u32, u32);

/// File systems that live in memory alone; `rootfs` is an initramfs.
const IN_MEMORY: [&str; 5] = ["tmpfs", "hugetlbfs", "ramfs", "rootfs", "devtmpfs"];

/// Returns whether files of that file system are written back to a disk or a server. A file system
/// that is mounted nowhere is the kernel's own, for memfds and shared anonymous memory, and is not.
pub(super) fn is_written_back(roots: &Roots, device: DeviceNumber) -> bool {
    mounted(roots).iter().any(|mount| mount.device == device && !IN_MEMORY.contains(&mount.kind.as_str()))
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) device: DeviceNumber,
    pub(super) point: String,
    pub(super) kind: String,
    /// Source of the mount, often the node of a block device.
    pub(super) source: String,
}

/// Returns the mounts this process sees.
pub(super) fn mounted(roots: &Roots) -> Vec<Mount> {
    let mounts = fs::read(roots.proc.join("self/mountinfo")).unwrap_or_default();
    String::from_utf8_lossy(&mounts).lines().filter_map(parse).collect()
}

/// Parses a line `id parent major:minor root point options... - type source options`.
fn parse(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split_ascii_whitespace().skip(2);
    let (major, minor) = place.next()?.split_once(':')?;
    let point = plain(place.nth(1)?);
    let mut kind = kind.split_ascii_whitespace();
    let device = (major.parse().ok()?, minor.parse().ok()?);
    Some(Mount { device, point, kind: kind.next()?.to_owned(), source: plain(kind.next().unwrap_or_default()) })
}

/// Removes the escapes from a field: `/proc` writes spaces, tabs, newlines and backslashes in
/// octal.
pub(super) fn plain(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (escape, character)| text.replace(escape, character))
}

/// What is written and opened to bind a device: the seam at which tests stand in for the kernel.
pub(super) trait Kernel: Send + Sync + fmt::Debug {
    /// Writes an attribute in sysfs, in one call.
    fn write(&self, path: &Path, text: &str) -> Result<(), Errno>;

    /// Opens and closes the node of a group: `EBUSY` if it is open elsewhere.
    fn open_group(&self, path: &Path) -> Result<(), Errno>;

    /// Opens and closes a block device exclusively: `EBUSY` if the kernel uses it or a part
    /// of it (a file system, swap, device mapper, md).
    fn claim_block(&self, path: &Path) -> Result<(), Errno>;
}

/// The running kernel.
#[derive(Debug)]
pub(super) struct Running;

impl Kernel for Running {
    fn write(&self, path: &Path, text: &str) -> Result<(), Errno> {
        // Not created: in sysfs that would be EACCES where ENOENT says more.
        let mut file = OpenOptions::new().write(true).open(path).map_err(errno)?;
        file.write_all(text.as_bytes()).map_err(errno)
    }

    fn open_group(&self, path: &Path) -> Result<(), Errno> {
        OpenOptions::new().read(true).write(true).open(path).map(drop).map_err(errno)
    }

    fn claim_block(&self, path: &Path) -> Result<(), Errno> {
        let flags = (OFlag::O_EXCL | OFlag::O_NONBLOCK).bits();
        OpenOptions::new().read(true).custom_flags(flags).open(path).map(drop).map_err(errno)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn the_platform_line_names_the_platform() {
        let with_line = |line: &str| {
            let fixture = Fixture::new();
            let cpuinfo = format!("processor\t: 0\ncpu\t\t: POWER9\n\ntimebase\t: 512000000\n{line}\nMMU\t\t: Radix\n");
            fixture.write("proc/cpuinfo", &cpuinfo);
            platform(&fixture.roots())
        };
        assert_eq!(with_line("platform\t: PowerNV"), Some(Platform::Powernv));
        assert_eq!(with_line("platform\t: pSeries"), Some(Platform::Pseries));
        assert_eq!(with_line("platform\t: PowerMac"), None);
        assert_eq!(with_line("model\t\t: PowerNV"), None);
        assert_eq!(platform(&Fixture::new().roots()), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel for a limit")]
    fn the_capability_counts_in_the_first_user_namespace_only() {
        for (capabilities, uid_map, unlimited) in [
            ("0000000000004000", Some("         0          0 4294967295\n"), true),
            ("0000000000004000", None, true),
            ("0000000000004000", Some("         0     100000      65536\n"), false),
            ("ffffffffffffbfff", Some("         0          0 4294967295\n"), false),
        ] {
            let fixture = Fixture::new();
            fixture.write("proc/self/status", &format!("Name:\tx\nVmLck:\t    2048 kB\nCapEff:\t{capabilities}\n"));
            if let Some(uid_map) = uid_map {
                fixture.write("proc/self/uid_map", uid_map);
            }
            let memlock = memlock(&fixture.roots()).unwrap();
            assert_eq!((memlock.locked, memlock.unlimited), (2 << 20, unlimited), "{capabilities} {uid_map:?}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel for a limit")]
    fn a_status_that_says_nothing_is_an_error() {
        let fixture = Fixture::new();
        assert_eq!(memlock(&fixture.roots()), Err(Errno::ENOENT));
        for status in ["", "VmLck: 5 kB\n", "VmLck: x kB\nCapEff: 0\n", "VmLck: 18446744073709551615 kB\nCapEff: 0\n"] {
            fixture.write("proc/self/status", status);
            assert_eq!(memlock(&fixture.roots()), Err(Errno::EIO), "{status}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel for a limit")]
    fn the_running_kernel_answers() {
        let memlock = memlock(&Roots::default()).unwrap();
        assert!(memlock.locked < 1 << 50);
        assert!(matches!(page_shift(), PageShift::P4K | PageShift::P64K));
    }

    #[test]
    fn groups_and_devices_come_in_order_with_ids_and_drivers() {
        let fixture = Fixture::new();
        fixture.device(Group(10), "0001:00:00.0", (0x1014, 0x04c1), None);
        fixture.device(Group(2), "0000:00:02.0", (0x1b36, 0x0010), Some("nvme"));
        fixture.device(Group(2), "0000:00:01.0", (0x1234, 0x11e8), Some("vfio-pci"));
        fixture.write("sys/kernel/iommu_groups/3/devices/00000000.odd/uevent", "");
        let device = |address: &str, id, driver: Option<&str>| PciDevice {
            address: address.to_owned(),
            id,
            driver: driver.map(str::to_owned),
        };
        assert_eq!(
            groups(&fixture.roots()),
            [
                GroupFacts {
                    number: Group(2),
                    devices: vec![
                        device("0000:00:01.0", (0x1234, 0x11e8), Some("vfio-pci")),
                        device("0000:00:02.0", (0x1b36, 0x0010), Some("nvme")),
                    ]
                },
                GroupFacts { number: Group(3), devices: vec![device("00000000.odd", (0xffff, 0xffff), None)] },
                GroupFacts { number: Group(10), devices: vec![device("0001:00:00.0", (0x1014, 0x04c1), None)] },
            ]
        );
    }

    #[test]
    fn a_kernel_without_groups_has_none() {
        assert_eq!(groups(&Fixture::new().roots()), []);
    }

    #[test]
    fn disks_and_servers_are_written_back_and_memory_is_not() {
        let fixture = Fixture::new();
        fixture.write(
            "proc/self/mountinfo",
            "1 1 0:2 / / rw - rootfs rootfs rw\n\
             22 1 254:31 / / rw,relatime shared:1 - ext4 /dev/vda31 rw\n\
             23 22 0:5 / /dev rw - devtmpfs udev rw\n\
             24 22 0:24 / /dev/shm rw shared:4 master:2 - tmpfs tmpfs rw\n\
             25 22 0:25 / /dev/hugepages rw - hugetlbfs hugetlbfs rw,pagesize=2M\n\
             26 22 0:40 / /srv rw - nfs4 server:/srv rw\n\
             nonsense\n",
        );
        let roots = fixture.roots();
        for (device, expected) in [
            ((254, 31), true),
            ((0, 40), true),
            ((0, 2), false),
            ((0, 5), false),
            ((0, 24), false),
            ((0, 25), false),
            ((0, 1), false),
        ] {
            assert_eq!(is_written_back(&roots, device), expected, "{device:?}");
        }
    }

    #[test]
    fn mounts_have_their_point_and_source() {
        let fixture = Fixture::new();
        let line = "36 35 259:1 / /srv/my\\040disk rw,noatime master:1 - ext4 /dev/nvme0n1p1 rw\n";
        fixture.write("proc/self/mountinfo", line);
        let expected = Mount {
            device: (259, 1),
            point: "/srv/my disk".to_owned(),
            kind: "ext4".to_owned(),
            source: "/dev/nvme0n1p1".to_owned(),
        };
        assert_eq!(mounted(&fixture.roots()), [expected]);
    }
}
