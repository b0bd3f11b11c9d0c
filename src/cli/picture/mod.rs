//! Pictures as SVG: bus addresses against user memory, and the cost of the steps of a run.

mod addresses;
mod axis;
mod canvas;
mod planned;
mod steps;
mod tables;

pub use addresses::addresses;
pub(crate) use canvas::amount;
pub(crate) use steps::MAX_BARS;
pub use steps::{Call, StepPart, Steps, steps};

use spapr_iommu::inspect::Snapshot;

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

impl From<&Snapshot> for Memory {
    fn from(snapshot: &Snapshot) -> Self {
        let guests = snapshot.guests.iter().flat_map(|guest| guest.phbs.iter().map(|phb| &phb.space));
        let spaces = snapshot.spaces.iter().chain(guests).map(|space| Space {
            name: space.name.clone(),
            windows: space
                .windows
                .iter()
                .map(|window| {
                    let pending = if window.levels.is_none() { ", pending" } else { "" };
                    let note = format!("{}{pending}", window.origin);
                    Window { start: window.start, size: window.size, page: window.page, note }
                })
                .collect(),
            runs: space
                .maps
                .rows
                .iter()
                .map(|row| Run { iova: row.iova, size: row.size, user: row.user, access: row.access.clone() })
                .collect(),
            more_runs: space.maps.runs.saturating_sub(space.maps.rows.len() as u64),
        });
        let regions = &snapshot.regions.rows;
        let (process, locked) = (&snapshot.process, snapshot.host.as_ref().and_then(|host| host.locked));
        Self {
            title: format!("Process {} ({})", process.pid, process.name),
            about: locked.map(|locked| format!("{} locked", canvas::amount(locked.bytes))).unwrap_or_default(),
            spaces: spaces.collect(),
            regions: regions.iter().map(|row| Region { start: row.user, size: row.size, name: None }).collect(),
        }
    }
}
