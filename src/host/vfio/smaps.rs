//! Reads the backing of user memory from `/proc/self/smaps`.

use super::sysfs::{DeviceNumber, Roots, errno, is_written_back};
use crate::addr::{PageShift, Range, UserAddr, UserRange};
use crate::host::{Errno, Extent};
use std::fs::File;
use std::io::{BufRead, BufReader};

/// Returns the extents of `range`, in address order.
pub(super) fn backing(roots: &Roots, range: UserRange) -> Result<Vec<Extent>, Errno> {
    let file = File::open(roots.proc.join("self/smaps")).map_err(errno)?;
    parse(BufReader::new(file), range, |device| is_written_back(roots, device))
}

/// A mapping while its lines are read.
struct Vma {
    start: u64,
    end: u64,
    page: Option<PageShift>,
    pinnable: bool,
    /// The file system of a shared mapping.
    shared: Option<DeviceNumber>,
}

impl Vma {
    /// Parses the line that starts a mapping, `start-end rwxp offset major:minor ...`; `None` for
    /// another line.
    fn from_head(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        let rights = words.next()?;
        let device = words.nth(1)?.split_once(':')?;
        let device = (u32::from_str_radix(device.0, 16).ok()?, u32::from_str_radix(device.1, 16).ok()?);
        let shared = rights.ends_with('s').then_some(device);
        Some(Self { start, end, page: None, pinnable: rights.starts_with("rw"), shared })
    }

    /// Parses a line `Key: value` of the mapping.
    fn add(&mut self, line: &str) {
        match line.split_once(':') {
            Some(("KernelPageSize", value)) => {
                let kib = value.trim().strip_suffix("kB").and_then(|kib| kib.trim_end().parse::<u64>().ok());
                self.page = kib.and_then(|kib| kib.checked_mul(1024)).and_then(PageShift::from_bytes);
            }
            // Memory of a device, which the kernel never pins.
            Some(("VmFlags", flags)) if flags.split_ascii_whitespace().any(|flag| flag == "io" || flag == "pf") => {
                self.pinnable = false;
            }
            _ => {}
        }
    }

    /// Returns the part of the mapping that lies in `range`.
    fn extent(&self, range: UserRange, written_back: impl Fn(DeviceNumber) -> bool) -> Result<Option<Extent>, Errno> {
        let Some(all) = Range::between(UserAddr(self.start), UserAddr(self.end)) else { return Ok(None) };
        let Some(range) = all.intersection(&range) else { return Ok(None) };
        let page = self.page.ok_or(Errno::EIO)?;
        // The kernel does not pin pages long-term if their file must see each write
        // (`writable_file_mapping_allowed`).
        let pinnable = self.pinnable && !self.shared.is_some_and(written_back);
        Ok(Some(Extent { range, page, pinnable }))
    }
}

fn parse(
    mut smaps: impl BufRead,
    range: UserRange,
    written_back: impl Fn(DeviceNumber) -> bool,
) -> Result<Vec<Extent>, Errno> {
    let mut extents = Vec::new();
    let mut current: Option<Vma> = None;
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if smaps.read_until(b'\n', &mut bytes).map_err(errno)? == 0 {
            break;
        }
        // Names of mapped files may hold any bytes.
        let line = String::from_utf8_lossy(&bytes);
        if let Some(next) = Vma::from_head(&line) {
            if let Some(vma) = current.take() {
                push(&mut extents, vma.extent(range, &written_back)?);
            }
            // Reading on would make the kernel count pages that do not matter.
            if next.start >= range.end().0 {
                break;
            }
            current = Some(next);
        } else if let Some(vma) = &mut current {
            vma.add(&line);
        }
    }
    if let Some(vma) = current {
        push(&mut extents, vma.extent(range, &written_back)?);
    }
    Ok(extents)
}

/// Appends an extent, merged with the last one where it continues it alike.
fn push(extents: &mut Vec<Extent>, next: Option<Extent>) {
    let Some(next) = next else { return };
    if let Some(last) = extents.last_mut() {
        let alike = last.range.end() == next.range.start() && last.page == next.page && last.pinnable == next.pinnable;
        if alike {
            last.range = last.range.hull(&next.range);
            return;
        }
    }
    extents.push(next);
}

#[cfg(test)]
mod tests {
    use super::super::memory::ProcessMemory;
    use super::*;
    use crate::host::Memory;
    use crate::host::Protection;

    const SMAPS: &str = "\
10000-30000 rw-p 00000000 00:00 0 \nSize: 128 kB\nKernelPageSize: 64 kB\nVmFlags: rd wr mr mw me ac \n\
30000-40000 rw-s 00000000 00:01 7 /memfd:a-b (deleted)\nKernelPageSize:       64 kB\nVmFlags: rd wr sh \n\
40000-50000 r--p 00000000 00:00 0 \nKernelPageSize: 64 kB\nVmFlags: rd mr mw \n\
50000-60000 rw-s 00000000 fe:1f 8 /var/ram\nKernelPageSize: 64 kB\nVmFlags: rd wr sh \n\
60000-70000 rw-s 00000000 00:0d 9 anon_inode:[vfio-device]\nKernelPageSize: 64 kB\nVmFlags: rd wr sh pf io de dd \n\
1000000-3000000 rw-p 00000000 00:0f 3 /anon_hugepage (deleted)\nKernelPageSize: 16384 kB\nVmFlags: rd wr ht \n\
7fff00000000-7fff00010000 ---p 00000000 00:00 0 \nKernelPageSize: 4 kB\nVmFlags: mr mw me \n";

    fn user(start: u64, end: u64) -> UserRange {
        Range::between(UserAddr(start), UserAddr(end)).unwrap()
    }

    fn extents(start: u64, end: u64) -> Vec<(u64, u64, u32, bool)> {
        let extents = parse(SMAPS.as_bytes(), user(start, end), |device| device == (0xfe, 0x1f)).unwrap();
        extents.iter().map(|e| (e.range.start().0, e.range.end().0, e.page.get(), e.pinnable)).collect()
    }

    #[test]
    fn mappings_of_one_kind_are_joined_and_others_kept_apart() {
        assert_eq!(
            extents(0, u64::MAX),
            [
                (0x10000, 0x40000, 16, true),
                (0x40000, 0x70000, 16, false),
                (0x100_0000, 0x300_0000, 24, true),
                (0x7fff_0000_0000, 0x7fff_0001_0000, 12, false),
            ]
        );
    }

    #[test]
    fn extents_end_with_the_range() {
        assert_eq!(extents(0x18000, 0x48000), [(0x18000, 0x40000, 16, true), (0x40000, 0x48000, 16, false)]);
        assert_eq!(extents(0x70000, 0x80000), []);
        assert_eq!(extents(0x200_0000, 0x200_1000), [(0x200_0000, 0x200_1000, 24, true)]);
    }

    #[test]
    fn a_mapping_of_unknown_page_is_an_error_where_it_matters() {
        let smaps = "10000-20000 rw-p 00000000 00:00 0 \nVmFlags: rd wr \n";
        assert_eq!(parse(smaps.as_bytes(), user(0x10000, 0x11000), |_| true), Err(Errno::EIO));
        assert_eq!(parse(smaps.as_bytes(), user(0x20000, 0x21000), |_| true), Ok(vec![]));
        assert_eq!(parse(&b"\xff\xfe: \n-\nKernelPageSize: x\n"[..], user(0, 1), |_| true), Ok(vec![]));
    }

    #[test]
    #[cfg_attr(miri, ignore = "unmaps a part of a mapping")]
    fn the_running_kernel_shows_holes_and_protections() {
        let memory = ProcessMemory::default();
        let page = super::super::sysfs::page_shift();
        let size = page.bytes();
        let all = memory.allocate(6 * size, page).unwrap();
        let part = |first: u64, count: u64| user(all.start().0 + first * size, all.start().0 + (first + count) * size);
        memory.protect(part(1, 1), Protection::Read).unwrap();
        memory.protect(part(2, 1), Protection::None).unwrap();
        memory.free(part(4, 1)).unwrap();
        let extents = backing(&Roots::default(), all).unwrap();
        let extent = |range, pinnable| Extent { range, page, pinnable };
        assert_eq!(
            extents,
            [extent(part(0, 1), true), extent(part(1, 2), false), extent(part(3, 1), true), extent(part(5, 1), true)]
        );
    }
}
