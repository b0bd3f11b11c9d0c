//! Which parts of a region the kernel lets a process map: a list in what it says of the region
//! (`VFIO_REGION_INFO_CAP_SPARSE_MMAP`), or all of it.

use crate::host::{Errno, RegionArea};
use crate::uapi::vfio::{REGION_INFO_FLAG_CAPS, REGION_INFO_FLAG_MMAP};

const SPARSE_MMAP: u16 = 1;
/// No region has more capabilities.
const MAX_CAPABILITIES: usize = 16;

/// The parts, from `struct vfio_region_info` with all that follows it. `EIO` for what no kernel
/// says.
pub(super) fn areas(info: &[u8]) -> Result<Vec<RegionArea>, Errno> {
    let flags = u32_at(info, 4)?;
    let size = u64_at(info, 16)?;
    if flags & REGION_INFO_FLAG_MMAP == 0 || size == 0 {
        return Ok(Vec::new());
    }
    let mut at = if flags & REGION_INFO_FLAG_CAPS == 0 { 0 } else { u32_at(info, 12)? };
    for _ in 0..MAX_CAPABILITIES {
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
    use super::*;

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
