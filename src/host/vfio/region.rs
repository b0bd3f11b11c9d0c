//! Accesses device regions: BARs through a mapping, the rest through the device's file.
//!
//! 1, 2, 4 and 8 aligned bytes of a mapped BAR are exactly one access (`host/shared.rs`) if the
//! caller accesses them in one call. Through the file the kernel cuts the same way, and may turn 8
//! bytes into twice 4.
//!
//! A mapped BAR answers only while memory space is enabled in the device's command register:
//! touched while it is not, the process gets SIGBUS from the kernel. So each access keeps it
//! enabled meanwhile, or gives `EIO` (`decode.rs`). A [`MappedArea`] is touched by its user, who
//! has to see to that.
#![allow(unsafe_code, reason = "a BAR is mapped memory of a device")]

use super::files::OpenFile;
use crate::host::{Errno, Region, RegionArea, shared};
use crate::uapi::vfio::{
    REGION_INFO_FLAG_CAPS, REGION_INFO_FLAG_MMAP, REGION_INFO_FLAG_READ, REGION_INFO_FLAG_WRITE, RegionInfo,
};
use core::ffi::c_void;
use core::num::NonZeroUsize;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::uio::{pread, pwrite};
use std::sync::Arc;

/// Opens the region that the kernel describes with `info`, and lets a process map where `areas`
/// are. The kernel accesses a region that cannot be mapped as a whole.
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

/// A part of a region, mapped into this process to be passed on: as a memory slot of KVM, whose
/// guest then reaches the device's registers without leaving the kernel.
///
/// The device's file stays open, and the mapping in place, until this is dropped.
#[derive(Debug)]
pub struct MappedArea {
    base: NonNull<c_void>,
    len: NonZeroUsize,
    offset: u64,
    _device: Arc<OpenFile>,
}

// SAFETY: this object only owns the mapping and returns its address; it never touches it.
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

    /// Returns where the device's registers are mapped.
    ///
    /// A caller that dereferences it must ensure that:
    /// * all of it lies in the mapping, which ends when this object is dropped;
    /// * accesses are volatile, aligned, of the widths that the device knows, and no reference is
    ///   made: these are registers;
    /// * memory decode is on and the device is awake, or the process ends with SIGBUS. While a
    ///   [`Device`](crate::device::Device) is held, both are so. A guest whose KVM touches it
    ///   otherwise makes `KVM_RUN` fail with `EFAULT`.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr().cast()
    }

    /// Returns where it begins in its region.
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
        // SAFETY: the mapping that `new` made; callers that kept the pointer know that it ends
        // here.
        let _ = unsafe { munmap(self.base, self.len.get()) };
    }
}

/// Returns what a mapping of a region allows.
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
        unsafe { shared::read_registers(self.base.as_ptr(), offset, data) };
        fence(Ordering::SeqCst);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Errno> {
        self.window.check(offset, data.len(), REGION_INFO_FLAG_WRITE)?;
        let _answering = self.device.decode.answering()?;
        // As in `read`: a doorbell must not overtake the memory it announces.
        fence(Ordering::SeqCst);
        // SAFETY: as in `read`; the mapping is writable.
        unsafe { shared::write_registers(self.base.as_ptr(), offset, data) };
        fence(Ordering::SeqCst);
        Ok(())
    }
}

const SPARSE_MMAP: u16 = 1;
/// No region has more capabilities.
const MAX_REGION_CAPABILITIES: usize = 16;

/// Returns the parts of a region that the kernel lets a process map: those of the list in `info`
/// (`VFIO_REGION_INFO_CAP_SPARSE_MMAP`), or all of it. `info` is `struct vfio_region_info` with all
/// that follows it; `EIO` if no kernel would write it.
pub(super) fn areas(info: &[u8]) -> Result<Vec<RegionArea>, Errno> {
    let flags = u32_at(info, 4)?;
    let size = u64_at(info, 16)?;
    if flags & REGION_INFO_FLAG_MMAP == 0 || size == 0 {
        return Ok(Vec::new());
    }
    let mut at = if flags & REGION_INFO_FLAG_CAPS == 0 { 0 } else { u32_at(info, 12)? };
    for _ in 0..MAX_REGION_CAPABILITIES {
        if at == 0 {
            return Ok(vec![RegionArea { offset: 0, len: size }]);
        }
        let here = at as usize;
        if u16_at(info, here)? == SPARSE_MMAP {
            return sparse(info, here, size);
        }
        at = u32_at(info, here.saturating_add(4))?;
    }
    Err(Errno::EIO)
}

fn sparse(info: &[u8], at: usize, size: u64) -> Result<Vec<RegionArea>, Errno> {
    let count = u32_at(info, at.saturating_add(8))? as usize;
    let mut areas = Vec::new();
    for index in 0..count {
        let at = index.checked_mul(16).and_then(|skip| at.checked_add(16)?.checked_add(skip)).ok_or(Errno::EIO)?;
        let area = RegionArea { offset: u64_at(info, at)?, len: u64_at(info, at.saturating_add(8))? };
        if area.offset.checked_add(area.len).is_none_or(|end| end > size) {
            return Err(Errno::EIO);
        }
        areas.extend((area.len > 0).then_some(area));
    }
    Ok(areas)
}

fn bytes<const N: usize>(info: &[u8], at: usize) -> Result<[u8; N], Errno> {
    info.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Errno::EIO)
}

fn u16_at(info: &[u8], at: usize) -> Result<u16, Errno> {
    bytes(info, at).map(u16::from_ne_bytes)
}

fn u32_at(info: &[u8], at: usize) -> Result<u32, Errno> {
    bytes(info, at).map(u32::from_ne_bytes)
}

fn u64_at(info: &[u8], at: usize) -> Result<u64, Errno> {
    bytes(info, at).map(u64::from_ne_bytes)
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

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// A region of 0x8000 bytes, with a capability that is none of these before the list.
    fn info(flags: u32, rest: &[u32]) -> Vec<u8> {
        let mut info = words(&[0, flags, 0, 32]);
        info.extend(0x8000u64.to_ne_bytes());
        info.extend(0u64.to_ne_bytes());
        info.extend(words(rest));
        info
    }

    fn head(id: u16, next: u32) -> [u32; 2] {
        let [a, b] = id.to_ne_bytes();
        let [c, d] = 1u16.to_ne_bytes();
        [u32::from_ne_bytes([a, b, c, d]), next]
    }

    fn u64_words(value: u64) -> [u32; 2] {
        let bytes = value.to_ne_bytes();
        [0, 4].map(|at| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]))
    }

    #[test]
    fn a_region_is_mapped_whole_in_parts_or_not_at_all() {
        let (map, caps) = (REGION_INFO_FLAG_MMAP, REGION_INFO_FLAG_CAPS);
        let whole = vec![RegionArea { offset: 0, len: 0x8000 }];
        assert_eq!(areas(&info(0, &[])), Ok(vec![]));
        assert_eq!(areas(&info(map, &[])), Ok(whole.clone()));
        assert_eq!(areas(&info(map | caps, &head(3, 0))), Ok(whole));
        let mut rest = head(3, 40).to_vec();
        rest.extend(head(1, 0));
        rest.extend([2, 0]);
        for value in [0, 0x2000, 0x4000, 0x4000] {
            rest.extend(u64_words(value));
        }
        let parts = vec![RegionArea { offset: 0, len: 0x2000 }, RegionArea { offset: 0x4000, len: 0x4000 }];
        assert_eq!(areas(&info(map | caps, &rest)), Ok(parts));
    }

    #[test]
    fn what_no_kernel_says_is_an_error() {
        let (map, caps) = (REGION_INFO_FLAG_MMAP, REGION_INFO_FLAG_CAPS);
        assert_eq!(areas(&[]), Err(Errno::EIO));
        assert_eq!(areas(&info(map | caps, &[])), Err(Errno::EIO), "no room for the capability");
        assert_eq!(areas(&info(map | caps, &head(3, 32))), Err(Errno::EIO), "a circle");
        let mut rest = head(1, 0).to_vec();
        rest.extend([u32::MAX, 0]);
        assert_eq!(areas(&info(map | caps, &rest)), Err(Errno::EIO), "more parts than there is room for");
        let mut rest = head(1, 0).to_vec();
        rest.extend([1, 0]);
        rest.extend(u64_words(0x8000));
        rest.extend(u64_words(1));
        assert_eq!(areas(&info(map | caps, &rest)), Err(Errno::EIO), "a part outside the region");
    }
}
