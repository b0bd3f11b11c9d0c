//! Which file systems keep a copy of their files elsewhere, from `/proc/self/mountinfo`.

use super::roots::Roots;
use std::fs;

/// Major and minor number of a file system.
pub(super) type DeviceNumber = (u32, u32);

/// File systems that live in memory alone; `rootfs` is an initramfs.
const IN_MEMORY: [&str; 5] = ["tmpfs", "hugetlbfs", "ramfs", "rootfs", "devtmpfs"];

/// Whether files of that file system are written back to a disk or a server. One that is mounted nowhere is the
/// kernel's own, of memfds and shared anonymous memory, and is not.
pub(super) fn is_written_back(roots: &Roots, device: DeviceNumber) -> bool {
    let mounts = fs::read(roots.proc.join("self/mountinfo")).unwrap_or_default();
    let mounts = String::from_utf8_lossy(&mounts);
    mounts.lines().filter_map(parse).any(|(mounted, kind)| mounted == device && !IN_MEMORY.contains(&kind))
}

/// The device number and type in a line `id parent major:minor root point options... - type source options`.
fn parse(line: &str) -> Option<(DeviceNumber, &str)> {
    let (place, kind) = line.split_once(" - ")?;
    let (major, minor) = place.split_ascii_whitespace().nth(2)?.split_once(':')?;
    Some(((major.parse().ok()?, minor.parse().ok()?), kind.split_ascii_whitespace().next()?))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

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
}
