//! Finds the hugetlb pages of this machine. Shared by the test programs that run on real kernels.

use spapr_iommu::addr::PageShift;
use std::fs;

/// Returns the hugetlb page sizes of which a few pages are free.
pub fn huge_pages(sizes: &[PageShift]) -> Vec<PageShift> {
    let free = |size: &PageShift| {
        let file = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/free_hugepages", size.bytes() >> 10);
        fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    sizes.iter().copied().filter(|size| free(size) >= 4).collect()
}
