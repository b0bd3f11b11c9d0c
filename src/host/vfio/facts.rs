//! Reads facts about the machine and this process from the kernel.

use super::roots::Roots;
use crate::addr::PageShift;
use crate::host::{Errno, Memlock, Platform};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};
use std::fs;
use std::io;

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
}
