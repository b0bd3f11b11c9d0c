//! What is asked of a window.

use crate::addr::{IovaRange, PageShift};

/// What a window is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A window of at least that many bytes, wherever it starts.
    Bytes(u64),
    /// A window that holds these bus addresses.
    Cover(IovaRange),
}

/// What is asked of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowRequest {
    /// What for.
    pub want: Want,
    /// Just this IOMMU page; `None` for the largest that fits.
    pub page: Option<PageShift>,
    /// The largest IOMMU page the memory carries; `None` for ordinary memory, which carries the host's page.
    pub carries: Option<PageShift>,
    /// The last bus address the device can put out; `None` for 64 bits.
    pub reach: Option<u64>,
    /// Fewest TCEs, to leave room for more than what is asked now.
    pub entries: u64,
}

impl WindowRequest {
    fn new(want: Want) -> Self {
        Self { want, page: None, carries: None, reach: None, entries: 0 }
    }

    /// A window of at least `bytes`.
    pub fn bytes(bytes: u64) -> Self {
        Self::new(Want::Bytes(bytes))
    }

    /// A window that holds `range`.
    pub fn cover(range: IovaRange) -> Self {
        Self::new(Want::Cover(range))
    }

    /// With just this IOMMU page.
    pub fn page(self, page: PageShift) -> Self {
        Self { page: Some(page), ..self }
    }

    /// For memory that carries IOMMU pages up to `page`.
    pub fn carries(self, page: PageShift) -> Self {
        Self { carries: Some(page), ..self }
    }

    /// With at least that many TCEs.
    pub fn entries(self, entries: u64) -> Self {
        Self { entries, ..self }
    }

    /// For a device that reaches bus addresses up to `reach`.
    pub fn reach(self, reach: u64) -> Self {
        Self { reach: Some(reach), ..self }
    }
}
