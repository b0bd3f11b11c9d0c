//! Pictures as SVG: bus addresses against user memory, and the cost of the steps of a run.

mod addresses;
mod axis;
mod canvas;
mod sources;
mod steps;

pub use addresses::addresses;
pub(crate) use canvas::amount;
pub(crate) use steps::MAX_BARS;
pub use steps::{Call, StepPart, Steps, steps};

/// Contents of [`addresses`].
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Title.
    pub title: String,
    /// A line below the title.
    pub about: String,
    /// Address spaces.
    pub spaces: Vec<Space>,
    /// Registered user memory.
    pub regions: Vec<Region>,
}

/// An address space.
#[derive(Clone, Debug, Default)]
pub struct Space {
    /// Name.
    pub name: String,
    /// Windows, which do not overlap.
    pub windows: Vec<Window>,
    /// Mapped runs, which do not overlap.
    pub runs: Vec<Run>,
    /// Number of further runs that are not drawn.
    pub more_runs: u64,
}

/// A DMA window.
#[derive(Clone, Debug, Default)]
pub struct Window {
    /// First bus address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// IOMMU page, bytes.
    pub page: u64,
    /// Additional words, such as its origin.
    pub note: String,
}

/// A mapped run.
#[derive(Clone, Debug, Default)]
pub struct Run {
    /// First bus address.
    pub iova: u64,
    /// Size in bytes.
    pub size: u64,
    /// The user address to which it leads.
    pub user: u64,
    /// What devices may do: `r`, `w` or `rw`.
    pub access: String,
}

/// Registered user memory.
#[derive(Clone, Debug, Default)]
pub struct Region {
    /// First user address.
    pub start: u64,
    /// Size in bytes.
    pub size: u64,
    /// Name of the memory, and the region's offset in it. Addresses are shown without the offset.
    pub name: Option<(String, u64)>,
}

impl Region {
    /// Returns the text for an address in the region.
    fn label(&self, address: u64) -> String {
        match &self.name {
            Some((name, offset)) => format!("{name}+{:#x}", address.wrapping_sub(self.start).wrapping_add(*offset)),
            None => format!("{address:#x}"),
        }
    }
}
