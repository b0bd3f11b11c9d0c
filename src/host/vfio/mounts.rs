//! Reads mounts from `/proc/self/mountinfo`, and finds file systems that keep a copy of their files
//! elsewhere.

use super::roots::Roots;
use std::fs;

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
