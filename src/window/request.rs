//! Requests for a window.

use crate::addr::{IovaRange, PageShift};

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A window of at least that many bytes, wherever it starts.
    Bytes(u64),
    /// A window that holds these bus addresses.
    Cover(IovaRange),
}

/// A request for a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRequest {
    /// What the window is for.
    pub want: Want,
    /// Exactly this IOMMU page; `None` for the largest that fits.
    pub page: Option<PageShift>,
    /// The largest IOMMU page the memory can serve; `None` for ordinary memory, which serves the
    /// host's page.
    pub max_iommu_page: Option<PageShift>,
    /// The last bus address the device can address; `None` for 64 bits.
    pub reach: Option<u64>,
    /// Fewest TCEs, to leave room for more than the current request.
    pub entries: u64,
}

impl WindowRequest {
    fn new(want: Want) -> Self {
        Self { want, page: None, max_iommu_page: None, reach: None, entries: 0 }
    }

    /// Requests a window of at least `bytes`.
    pub fn bytes(bytes: u64) -> Self {
        Self::new(Want::Bytes(bytes))
    }

    /// Requests a window that holds `range`.
    pub fn cover(range: IovaRange) -> Self {
        Self::new(Want::Cover(range))
    }

    /// Requires exactly this IOMMU page.
    pub fn page(self, page: PageShift) -> Self {
        Self { page: Some(page), ..self }
    }

    /// Declares that the memory can serve IOMMU pages up to `page`.
    pub fn max_iommu_page(self, page: PageShift) -> Self {
        Self { max_iommu_page: Some(page), ..self }
    }

    /// Requires at least that many TCEs.
    pub fn entries(self, entries: u64) -> Self {
        Self { entries, ..self }
    }

    /// Declares that the device reaches bus addresses up to `reach`.
    pub fn reach(self, reach: u64) -> Self {
        Self { reach: Some(reach), ..self }
    }
}
