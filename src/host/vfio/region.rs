//! Accesses device regions: BARs through a mapping, the rest through the device's file.
//!
//! 1, 2, 4 and 8 aligned bytes of a mapped BAR are exactly one access (`host/volatile.rs`) if the
//! caller accesses them in one call. Through the file the kernel cuts the same way, and may turn 8
//! bytes into twice 4.
//!
//! A mapped BAR answers only while memory space is enabled in the device's command register;
//! otherwise an access raises SIGBUS.
#![allow(unsafe_code, reason = "a BAR is mapped memory of a device")]

use super::files::OpenFile;
use crate::host::{Errno, Region, volatile};
use crate::uapi::vfio::{REGION_INFO_FLAG_MMAP, REGION_INFO_FLAG_READ, REGION_INFO_FLAG_WRITE, RegionInfo};
use core::ffi::c_void;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::uio::{pread, pwrite};
use std::sync::Arc;

/// Opens the region that the kernel describes with `info`.
pub(super) fn open(device: Arc<OpenFile>, info: &RegionInfo) -> Result<Box<dyn Region>, Errno> {
    if info.size == 0 {
        return Err(Errno::ENXIO);
    }
    // Every byte's position in the file must be a file offset.
    let end = info.offset.checked_add(info.size).ok_or(Errno::EOVERFLOW)?;
    i64::try_from(end).map_err(|_| Errno::EOVERFLOW)?;
    let window = Window { offset: info.offset, size: info.size, flags: info.flags };
    if info.flags & REGION_INFO_FLAG_MMAP == 0 {
        return Ok(Box::new(FileRegion { device, window }));
    }
    Ok(Box::new(MappedRegion::new(device, window)?))
}

/// Where a region lies in the device's file, and which accesses it allows.
struct Window {
    offset: u64,
    size: u64,
    flags: u32,
}

impl Window {
    /// Fails with `EINVAL` for an access that leaves the region, `EACCES` for one the region does
    /// not allow.
    fn check(&self, offset: u64, len: usize, flag: u32) -> Result<(), Errno> {
        let end = u64::try_from(len).ok().and_then(|len| offset.checked_add(len));
        match end {
            Some(end) if end <= self.size => {}
            _ => return Err(Errno::EINVAL),
        }
        if self.flags & flag == 0 { Err(Errno::EACCES) } else { Ok(()) }
    }
}

/// A region without a mapping: the configuration space, and what the device's driver emulates.
struct FileRegion {
    device: Arc<OpenFile>,
    window: Window,
}

impl FileRegion {
    /// Returns the position of `offset + done` in the file; in bounds, as `open` and `check` saw.
    fn place(&self, offset: u64, done: usize) -> i64 {
        (self.window.offset + offset) as i64 + done as i64
    }
}

impl Region for FileRegion {
    fn size(&self) -> u64 {
        self.window.size
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.window.check(offset, data.len(), REGION_INFO_FLAG_READ)?;
        let mut done = 0;
        while done < data.len() {
            match pread(&self.device.file, &mut data[done..], self.place(offset, done))? {
                0 => return Err(Errno::EIO),
                n => done += n,
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.window.check(offset, data.len(), REGION_INFO_FLAG_WRITE)?;
        let mut done = 0;
        while done < data.len() {
            match pwrite(&self.device.file, &data[done..], self.place(offset, done))? {
                0 => return Err(Errno::EIO),
                n => done += n,
            }
        }
        Ok(())
    }
}

/// A mapped BAR.
struct MappedRegion {
    base: NonNull<c_void>,
    len: NonZeroUsize,
    window: Window,
    _device: Arc<OpenFile>,
}

// SAFETY: the mapping belongs to this object alone and to no Rust value. It is only accessed
// volatile, as a device's registers are; the device defines what concurrent accesses mean.
unsafe impl Send for MappedRegion {}
// SAFETY: as above.
unsafe impl Sync for MappedRegion {}

impl MappedRegion {
    fn new(device: Arc<OpenFile>, window: Window) -> Result<Self, Errno> {
        let len = usize::try_from(window.size).ok().and_then(NonZeroUsize::new).ok_or(Errno::EOVERFLOW)?;
        let mut protection = ProtFlags::PROT_NONE;
        protection.set(ProtFlags::PROT_READ, window.flags & REGION_INFO_FLAG_READ != 0);
        protection.set(ProtFlags::PROT_WRITE, window.flags & REGION_INFO_FLAG_WRITE != 0);
        // SAFETY: a new mapping where the kernel finds room replaces none.
        let base = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, &device.file, window.offset as i64) }?;
        Ok(Self { base, len, window, _device: device })
    }
}

impl Drop for MappedRegion {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; nothing refers to it any longer.
        let _ = unsafe { munmap(self.base, self.len.get()) };
    }
}

impl Region for MappedRegion {
    fn size(&self) -> u64 {
        self.window.size
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<(), Errno> {
        self.window.check(offset, data.len(), REGION_INFO_FLAG_READ)?;
        // POWER orders accesses to memory and to device registers only across a full `sync`, which
        // this fence is: earlier writes must be visible to the device, and later reads must be
        // younger than the register's.
        fence(Ordering::SeqCst);
        // SAFETY: `check` saw that the bytes lie in the mapping, which starts on a page and is
        // readable.
        unsafe { volatile::read(self.base.as_ptr(), offset, data) };
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.window.check(offset, data.len(), REGION_INFO_FLAG_WRITE)?;
        // As in `read`: a doorbell must not overtake the memory it announces.
        fence(Ordering::SeqCst);
        // SAFETY: as in `read`; the mapping is writable.
        unsafe { volatile::write(self.base.as_ptr(), offset, data) };
        fence(Ordering::SeqCst);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::files::Kind;
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt;

    const RW: u32 = REGION_INFO_FLAG_READ | REGION_INFO_FLAG_WRITE;
    const SIZE: u64 = 0x2000;
    /// A whole number of pages on any host.
    const OFFSET: u64 = 0x2_0000;

    /// A file that stands in for a device, and a region of it.
    fn region(flags: u32) -> (File, Box<dyn Region>) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(OFFSET + 0x1_0000).unwrap();
        let device = Arc::new(OpenFile { file: file.try_clone().unwrap().into(), kind: Kind::Device });
        let info = RegionInfo { flags, size: SIZE, offset: OFFSET, ..Default::default() };
        (file, open(device, &info).unwrap())
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn both_kinds_read_and_write_the_bytes_at_their_offset() {
        for flags in [RW, RW | REGION_INFO_FLAG_MMAP] {
            let (file, region) = region(flags);
            assert_eq!(region.size(), SIZE);
            let bytes: Vec<u8> = (1..=37).collect();
            for (offset, len) in [(0, 1), (2, 2), (4, 4), (8, 8), (3, 37), (SIZE - 37, 37), (SIZE, 0)] {
                region.write(offset, &bytes[..len]).unwrap();
                let mut in_file = vec![0; len];
                file.read_exact_at(&mut in_file, OFFSET + offset).unwrap();
                assert_eq!(in_file, bytes[..len], "write of {len} at {offset:#x}, flags {flags}");
                let mut back = vec![0; len];
                region.read(offset, &mut back).unwrap();
                assert_eq!(back, bytes[..len], "read of {len} at {offset:#x}, flags {flags}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn nothing_outside_the_region_is_reached() {
        for flags in [RW, RW | REGION_INFO_FLAG_MMAP] {
            let (_file, region) = region(flags);
            for (offset, len) in [(SIZE, 1), (SIZE - 3, 4), (u64::MAX, 1), (u64::MAX - 3, 4), (0, SIZE as usize + 1)] {
                let mut data = vec![0; len];
                assert_eq!(region.read(offset, &mut data), Err(Errno::EINVAL), "{len} at {offset:#x}");
                assert_eq!(region.write(offset, &data), Err(Errno::EINVAL), "{len} at {offset:#x}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_region_allows_what_its_flags_say() {
        for mapped in [0, REGION_INFO_FLAG_MMAP] {
            let (_file, read_only) = region(mapped | REGION_INFO_FLAG_READ);
            assert_eq!(read_only.read(0, &mut [0; 4]), Ok(()));
            assert_eq!(read_only.write(0, &[0; 4]), Err(Errno::EACCES));
            let (_file, neither) = region(mapped);
            assert_eq!(neither.read(0, &mut [0; 4]), Err(Errno::EACCES));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_region_that_is_not_there_or_not_in_a_file_is_refused() {
        let open_with = |size, offset, flags| {
            let device = Arc::new(OpenFile { file: tempfile::tempfile().unwrap().into(), kind: Kind::Device });
            open(device, &RegionInfo { flags, size, offset, ..Default::default() }).err()
        };
        assert_eq!(open_with(0, 0, RW), Some(Errno::ENXIO));
        assert_eq!(open_with(u64::MAX, 1, RW), Some(Errno::EOVERFLOW));
        assert_eq!(open_with(1, i64::MAX as u64, RW), Some(Errno::EOVERFLOW));
        assert_eq!(open_with(SIZE, 1, RW | REGION_INFO_FLAG_MMAP), Some(Errno::EINVAL), "not on a page");
    }

    #[test]
    fn a_file_that_ends_early_is_an_error_and_no_endless_loop() {
        let device = Arc::new(OpenFile { file: tempfile::tempfile().unwrap().into(), kind: Kind::Device });
        let region = open(device, &RegionInfo { flags: RW, size: SIZE, ..Default::default() }).unwrap();
        assert_eq!(region.read(0, &mut [0; 4]), Err(Errno::EIO));
    }
}
