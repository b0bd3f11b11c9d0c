//! DMA of a device: accesses memory through the TCEs of its container, IOMMU page by IOMMU page.

use super::container::Driver;
use super::physical::Physical;
use crate::uapi::vfio::{DMA_MAP_FLAG_READ, DMA_MAP_FLAG_WRITE};

/// Reads memory; what is not mapped for reading gives zeros.
pub(super) fn read(driver: &Driver, memory: &Physical, iova: u64, data: &mut [u8]) {
    data.fill(0);
    for (physical, span) in translate(driver, iova, data.len(), DMA_MAP_FLAG_READ) {
        memory.read(physical, &mut data[span]);
    }
}

/// Writes memory; what is not mapped for writing is dropped.
pub(super) fn write(driver: &Driver, memory: &mut Physical, iova: u64, data: &[u8]) {
    for (physical, span) in translate(driver, iova, data.len(), DMA_MAP_FLAG_WRITE) {
        memory.write(physical, &data[span]);
    }
}

/// Returns the physical addresses of the parts of an access that are allowed.
fn translate(driver: &Driver, iova: u64, len: usize, access: u32) -> Vec<(u64, core::ops::Range<usize>)> {
    let mut parts = Vec::new();
    let mut done = 0;
    while let Some(at) = iova.checked_add(done as u64).filter(|_| done < len) {
        let table = driver.slot(at).and_then(|slot| driver.tables[slot].as_ref());
        let page = 1u64 << table.map_or(12, |table| table.shift);
        let rest = page - (at & (page - 1));
        let take = usize::try_from(rest).unwrap_or(usize::MAX).min(len - done);
        if let Some(tce) = table.and_then(|table| table.entry(at)).filter(|tce| tce.bits & access != 0) {
            parts.push((at.wrapping_add(tce.physical), done..done + take));
        }
        done += take;
    }
    parts
}
