//! Surveys the backing of memory, which decides the largest IOMMU page it can serve.

use super::RegisterError;
use crate::addr::{PageShift, UserAddr, UserRange};
use crate::host::Host;

/// A stretch of memory of one page size, which will become one kernel region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub range: UserRange,
    /// The largest IOMMU page it can serve.
    pub max_iommu_page: PageShift,
}

/// Cuts `gap` where the page size of its backing changes: one region over both would serve only the
/// smaller one (`mm_iommu_do_alloc`). Fails if a page of it cannot be pinned.
pub(super) fn survey(host: &dyn Host, gap: UserRange) -> Result<Vec<Stretch>, RegisterError> {
    let mut stretches: Vec<(UserRange, PageShift)> = Vec::new();
    let mut at = gap.start();
    for extent in host.backing(gap).map_err(RegisterError::Backing)? {
        let Some(part) = extent.range.intersection(&gap) else { continue };
        if let Some(hole) = UserRange::between(at, part.start()) {
            return Err(RegisterError::Hole { asked: gap, hole });
        }
        if !extent.pinnable {
            return Err(RegisterError::NotPinnable { asked: gap, part });
        }
        at = part.end();
        match stretches.last_mut() {
            Some((last, page)) if *page == extent.page && last.end() == part.start() => {
                *last = last.hull(&part);
            }
            _ => stretches.push((part, extent.page)),
        }
    }
    if let Some(hole) = UserRange::between(at, gap.end()) {
        return Err(RegisterError::Hole { asked: gap, hole });
    }
    Ok(stretches
        .into_iter()
        .map(|(range, page)| Stretch { range, max_iommu_page: max_iommu_page(range, page) })
        .collect())
}

/// Returns the largest IOMMU page a region over `range` can serve, limited by its backing and by
/// the alignment of both its ends.
pub(super) fn max_iommu_page(range: UserRange, backing: PageShift) -> PageShift {
    let UserAddr(start) = range.start();
    let aligned = (start | range.len()).trailing_zeros().min(34);
    PageShift::new(aligned).map_or(PageShift::P4K, |aligned| aligned.min(backing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alignment_and_backing_bound_the_page() {
        let range = |start, len| UserRange::new(UserAddr(start), len).unwrap();
        assert_eq!(max_iommu_page(range(0x20_0000, 0x40_0000), PageShift::P2M), PageShift::P2M);
        assert_eq!(max_iommu_page(range(0x20_0000, 0x41_0000), PageShift::P2M), PageShift::P64K);
        assert_eq!(max_iommu_page(range(0x20_1000, 0x40_0000), PageShift::P2M), PageShift::P4K);
        assert_eq!(max_iommu_page(range(0x20_0000, 0x40_0000), PageShift::P64K), PageShift::P64K);
    }
}
