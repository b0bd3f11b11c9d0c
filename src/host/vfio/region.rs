//! Accesses device regions: BARs through a mapping, the rest through the device's file.
//!
//! 1, 2, 4 and 8 aligned bytes of a mapped BAR are exactly one access (`host/volatile.rs`) if the
//! caller accesses them in one call. Through the file the kernel cuts the same way, and may turn 8
//! bytes into twice 4.
//!
//! A mapped BAR answers only while memory space is enabled in the device's command register:
//! touched while it is not, the process gets SIGBUS from the kernel. So each access keeps it
//! enabled meanwhile, or gives `EIO` (`decode.rs`). A [`MappedArea`] is touched by its user, who
//! has to see to that.
#![allow(unsafe_code, reason = "a BAR is mapped memory of a device")]

use super::files::OpenFile;
use crate::host::{Errno, Region, RegionArea, volatile};
use crate::uapi::vfio::{REGION_INFO_FLAG_MMAP, REGION_INFO_FLAG_READ, REGION_INFO_FLAG_WRITE, RegionInfo};
use core::ffi::c_void;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::uio::{pread, pwrite};
use std::sync::Arc;

/// The region that the kernel describes with `info`, and lets a process map where `areas` are. One
/// that cannot be mapped as a whole is accessed by the kernel.
pub(super) fn open(device: Arc<OpenFile>, info: &RegionInfo, areas: &[RegionArea]) -> Result<Box<dyn Region>, Errno> {
    if info.size == 0 {
        return Err(Errno::ENXIO);
    }
    // Every byte's position in the file must be a file offset.
    let end = info.offset.checked_add(info.size).ok_or(Errno::EOVERFLOW)?;
    i64::try_from(end).map_err(|_| Errno::EOVERFLOW)?;
    let window = Window { offset: info.offset, size: info.size, flags: info.flags };
    let whole = RegionArea { offset: 0, len: info.size };
    if info.flags & REGION_INFO_FLAG_MMAP == 0 || !areas.contains(&whole) {
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

/// A part of a region, mapped into this process for whoever passes it on: as a memory slot of KVM,
/// whose guest then reaches the device's registers without leaving the kernel.
///
/// The device's file stays open, and the mapping in place, until this is dropped.
#[derive(Debug)]
pub struct MappedArea {
    base: NonNull<c_void>,
    len: NonZeroUsize,
    offset: u64,
    _device: Arc<OpenFile>,
}

// SAFETY: this object only owns the mapping and tells where it is; it never touches it.
unsafe impl Send for MappedArea {}
// SAFETY: as above.
unsafe impl Sync for MappedArea {}

impl MappedArea {
    /// Maps `area` of the region that the kernel describes with `info`.
    pub(super) fn new(device: Arc<OpenFile>, info: &RegionInfo, area: RegionArea) -> Result<Self, Errno> {
        let start = info.offset.checked_add(area.offset).and_then(|at| i64::try_from(at).ok());
        let start = start.ok_or(Errno::EOVERFLOW)?;
        let len = usize::try_from(area.len).ok().and_then(NonZeroUsize::new).ok_or(Errno::EINVAL)?;
        let access = protection(info.flags);
        // SAFETY: a new mapping where the kernel finds room replaces none.
        let base = unsafe { mmap(None, len, access, MapFlags::MAP_SHARED, &device.file, start) }?;
        Ok(Self { base, len, offset: area.offset, _device: device })
    }

    /// Where the device's registers are mapped.
    ///
    /// Whoever dereferences it has to keep to this:
    /// * all of it lies in the mapping, which ends when this object is dropped;
    /// * accesses are volatile, aligned, of the widths that the device knows, and no reference is
    ///   made: these are registers;
    /// * memory decode is on and the device is awake, or the process ends with SIGBUS. While a
    ///   [`Device`](crate::device::Device) is held, both are so. A guest whose KVM touches it
    ///   otherwise makes `KVM_RUN` fail with `EFAULT`.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr().cast()
    }

    /// Where it begins in its region.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes.
    #[allow(clippy::len_without_is_empty, reason = "there is no empty area")]
    pub fn len(&self) -> usize {
        self.len.get()
    }
}

impl Drop for MappedArea {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made; who kept the pointer was told that it ends here.
        let _ = unsafe { munmap(self.base, self.len.get()) };
    }
}

/// What a mapping of a region allows.
fn protection(flags: u32) -> ProtFlags {
    let mut protection = ProtFlags::PROT_NONE;
    protection.set(ProtFlags::PROT_READ, flags & REGION_INFO_FLAG_READ != 0);
    protection.set(ProtFlags::PROT_WRITE, flags & REGION_INFO_FLAG_WRITE != 0);
    protection
}

/// A mapped BAR.
struct MappedRegion {
    base: NonNull<c_void>,
    len: NonZeroUsize,
    window: Window,
    device: Arc<OpenFile>,
}

// SAFETY: the mapping belongs to this object alone and to no Rust value. It is only accessed
// volatile, as a device's registers are; the device defines what concurrent accesses mean.
unsafe impl Send for MappedRegion {}
// SAFETY: as above.
unsafe impl Sync for MappedRegion {}

impl MappedRegion {
    fn new(device: Arc<OpenFile>, window: Window) -> Result<Self, Errno> {
        let len = usize::try_from(window.size).ok().and_then(NonZeroUsize::new).ok_or(Errno::EOVERFLOW)?;
        let access = protection(window.flags);
        // SAFETY: a new mapping where the kernel finds room replaces none.
        let base = unsafe { mmap(None, len, access, MapFlags::MAP_SHARED, &device.file, window.offset as i64) }?;
        Ok(Self { base, len, window, device })
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
        let _answering = self.device.decode.answering()?;
        // POWER orders accesses to memory and to device registers only across a full `sync`, which
        // this fence is: what was written before must be seen by the device, and what is read
        // afterwards must be younger than the register.
        fence(Ordering::SeqCst);
        // SAFETY: `check` saw that the bytes lie in the mapping, which starts on a page and is
        // readable.
        unsafe { volatile::read(self.base.as_ptr(), offset, data) };
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.window.check(offset, data.len(), REGION_INFO_FLAG_WRITE)?;
        let _answering = self.device.decode.answering()?;
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
        let device = Arc::new(OpenFile::new(file.try_clone().unwrap().into(), Kind::Device));
        let info = RegionInfo { flags, size: SIZE, offset: OFFSET, ..Default::default() };
        (file, open(device, &info, &[RegionArea { offset: 0, len: SIZE }]).unwrap())
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

    /// A plain file would read and write all the same: the error comes from here, before the
    /// registers are touched.
    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_mapped_bar_that_does_not_answer_is_not_touched() {
        let (file, bar) = region(RW | REGION_INFO_FLAG_MMAP);
        let device = Arc::new(OpenFile::new(file.try_clone().unwrap().into(), Kind::Device));
        let info = RegionInfo { flags: RW | REGION_INFO_FLAG_MMAP, size: SIZE, offset: OFFSET, ..Default::default() };
        let other = open(Arc::clone(&device), &info, &[RegionArea { offset: 0, len: SIZE }]).unwrap();
        let config = RegionInfo { flags: RW, size: 256, ..Default::default() };
        let config = open(Arc::clone(&device), &config, &[]).unwrap();
        let config = super::super::decode::ConfigRegion { file: config, device };
        other.write(0, &[7]).unwrap();
        config.write(4, &[0, 0]).unwrap();
        assert_eq!((other.read(0, &mut [0]), other.write(0, &[8])), (Err(Errno::EIO), Err(Errno::EIO)));
        config.write(4, &[2, 0]).unwrap();
        let mut back = [0];
        other.read(0, &mut back).unwrap();
        assert_eq!(back, [7]);
        bar.read(0, &mut back).unwrap();
    }

    #[test]
    #[cfg_attr(miri, ignore = "maps a file")]
    fn a_region_is_mapped_only_where_the_kernel_lets_it() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(OFFSET + 0x4_0000).unwrap();
        file.write_all_at(b"registers", OFFSET + 0x1_0000).unwrap();
        let device = Arc::new(OpenFile::new(file.try_clone().unwrap().into(), Kind::Device));
        let info =
            RegionInfo { flags: RW | REGION_INFO_FLAG_MMAP, size: 0x4_0000, offset: OFFSET, ..Default::default() };
        let area = RegionArea { offset: 0x1_0000, len: 0x2_0000 };
        // A mapping would let this one read while decode is off.
        let kernels = open(Arc::clone(&device), &info, &[area]).unwrap();
        let off = open(Arc::clone(&device), &RegionInfo { flags: RW, size: 256, ..Default::default() }, &[]).unwrap();
        super::super::decode::ConfigRegion { file: off, device: Arc::clone(&device) }.write(4, &[0]).unwrap();
        let mut back = [0; 9];
        kernels.read(0x1_0000, &mut back).unwrap();
        assert_eq!(&back, b"registers");
        let mapped = MappedArea::new(Arc::clone(&device), &info, area).unwrap();
        assert_eq!((mapped.offset(), mapped.len()), (0x1_0000, 0x2_0000));
        // SAFETY: within the mapping, which is there and can be read.
        let first = unsafe { mapped.as_ptr().read_volatile() };
        assert_eq!(first, b'r');
        let no = |offset, len| MappedArea::new(Arc::clone(&device), &info, RegionArea { offset, len }).err();
        assert_eq!(no(0, 0), Some(Errno::EINVAL));
        assert_eq!(no(u64::MAX, 1), Some(Errno::EOVERFLOW));
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
            let device = Arc::new(OpenFile::new(tempfile::tempfile().unwrap().into(), Kind::Device));
            let whole = [RegionArea { offset: 0, len: size }];
            open(device, &RegionInfo { flags, size, offset, ..Default::default() }, &whole).err()
        };
        assert_eq!(open_with(0, 0, RW), Some(Errno::ENXIO));
        assert_eq!(open_with(u64::MAX, 1, RW), Some(Errno::EOVERFLOW));
        assert_eq!(open_with(1, i64::MAX as u64, RW), Some(Errno::EOVERFLOW));
        assert_eq!(open_with(SIZE, 1, RW | REGION_INFO_FLAG_MMAP), Some(Errno::EINVAL), "not on a page");
    }

    #[test]
    fn a_file_that_ends_early_is_an_error_and_no_endless_loop() {
        let device = Arc::new(OpenFile::new(tempfile::tempfile().unwrap().into(), Kind::Device));
        let region = open(device, &RegionInfo { flags: RW, size: SIZE, ..Default::default() }, &[]).unwrap();
        assert_eq!(region.read(0, &mut [0; 4]), Err(Errno::EIO));
    }
}
