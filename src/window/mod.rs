//! DMA windows: the existing ones, and plans to create more.

mod error;
mod facts;
mod input;
mod plan;
mod planning;
mod powernv;
mod refused;
mod request;
mod table;
#[cfg(test)]
mod tests;

pub use error::{PlanError, Reason};
pub use facts::{DEFAULT_PAGE, WindowFacts};
pub use input::{LiveWindow, PlanInput};
pub use plan::{Plan, Planned, Step};
pub use planning::{plan, plan_removal};
pub(crate) use powernv::Holder;
pub use refused::RefusedWindows;
pub use request::{Want, WindowRequest};
pub use table::{Teardown, locked_bytes, teardown};

use crate::addr::{Iova, IovaRange, PageShift};
use core::fmt;

/// Origin of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The platform's default window.
    Default,
    /// Created because the caller requested a window.
    Requested,
    /// Created because something was mapped there; removed when nothing is left in it.
    Demand,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::Requested => "requested",
            Self::Demand => "demand",
        })
    }
}

/// A DMA window: a stretch of bus addresses with its TCE table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Bus addresses of the window.
    pub range: IovaRange,
    /// IOMMU page of the window.
    pub page: PageShift,
    /// Levels of the TCE table.
    pub levels: u32,
    /// Why it was created.
    pub origin: Origin,
}

/// State of the default window. It is created by the first MAP, UNMAP or CREATE, and never comes
/// back after it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultWindow {
    /// The kernel will create it at the next call that needs a window.
    Pending,
    /// It exists.
    Live,
    /// It was removed, or there is none.
    Gone,
}

impl fmt::Display for DefaultWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pending => "pending",
            Self::Live => "live",
            Self::Gone => "gone",
        })
    }
}

/// The windows of an address space: at most two, the same in all its containers.
#[derive(Clone, Debug)]
pub struct Windows {
    /// State of the default window.
    pub default: DefaultWindow,
    live: Vec<Window>,
}

impl Windows {
    /// Creates the windows of a container whose first group was just attached.
    pub fn new() -> Self {
        Self { default: DefaultWindow::Pending, live: Vec::with_capacity(2) }
    }

    /// Iterates over the existing windows.
    pub fn iter(&self) -> impl Iterator<Item = &Window> {
        self.live.iter()
    }

    /// Returns the window that holds all of `range`.
    pub fn containing(&self, range: IovaRange) -> Option<&Window> {
        self.live.iter().find(|window| window.range.contains_range(&range))
    }

    /// Marks the window that starts there as requested: it stays until it is removed.
    pub fn keep(&mut self, start: Iova) {
        let demand = |window: &&mut Window| window.range.start() == start && window.origin == Origin::Demand;
        if let Some(window) = self.live.iter_mut().find(demand) {
            window.origin = Origin::Requested;
        }
    }

    /// Inserts a window.
    pub fn insert(&mut self, window: Window) {
        if window.origin == Origin::Default {
            self.default = DefaultWindow::Live;
        }
        self.live.push(window);
    }

    /// Removes and returns the window with exactly that range.
    pub fn remove(&mut self, range: IovaRange) -> Option<Window> {
        let at = self.live.iter().position(|window| window.range == range)?;
        let window = self.live.remove(at);
        if window.origin == Origin::Default {
            self.default = DefaultWindow::Gone;
        }
        Some(window)
    }
}

impl Default for Windows {
    fn default() -> Self {
        Self::new()
    }
}
