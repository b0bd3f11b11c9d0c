//! DMA windows: what there is, and the plan of what to create.

mod facts;
mod plan;
mod planning;
mod powernv;
mod refusal;
mod refused;
mod request;
mod situation;
mod table;
#[cfg(test)]
mod tests;

pub use facts::{DEFAULT_PAGE, WindowFacts};
pub use plan::{Plan, Planned, Step};
pub use planning::{plan, plan_removal};
pub(crate) use powernv::Holder;
pub use refusal::{Reason, Refusal};
pub use refused::RefusedWindows;
pub use request::{Want, WindowRequest};
pub use situation::{Situation, Standing};
pub use table::{Teardown, locked_bytes, teardown};

use crate::addr::{Iova, IovaRange, PageShift};
use core::fmt;

/// Where a window came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The platform's default window.
    Default,
    /// Created because somebody asked for a window.
    Asked,
    /// Created because something was mapped there; goes when nothing is left in it.
    Demand,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Default => "default",
            Self::Asked => "asked",
            Self::Demand => "demand",
        })
    }
}

/// A DMA window: a stretch of bus addresses with a TCE table behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its bus addresses.
    pub range: IovaRange,
    /// Its IOMMU page.
    pub page: PageShift,
    /// Levels of its TCE table.
    pub levels: u32,
    /// Where it came from.
    pub origin: Origin,
}

/// The default window's life. It waits until the first MAP, UNMAP or CREATE, and never comes back once it is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultWindow {
    /// The kernel will create it with the next call that needs a window.
    Pending,
    /// It is there.
    Live,
    /// It was removed, or is none.
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

/// The windows of an address space: two at most, in every container of it alike.
#[derive(Clone, Debug)]
pub struct Windows {
    /// The default window's life.
    pub default: DefaultWindow,
    live: Vec<Window>,
}

impl Windows {
    /// A container whose first group was just attached.
    pub fn new() -> Self {
        Self { default: DefaultWindow::Pending, live: Vec::with_capacity(2) }
    }

    /// The windows that are there.
    pub fn iter(&self) -> impl Iterator<Item = &Window> {
        self.live.iter()
    }

    /// The window that holds all of `range`.
    pub fn containing(&self, range: IovaRange) -> Option<&Window> {
        self.live.iter().find(|window| window.range.contains_range(&range))
    }

    /// Somebody asked for the window that starts there: it stays until it is removed.
    pub fn keep(&mut self, start: Iova) {
        let demand = |window: &&mut Window| window.range.start() == start && window.origin == Origin::Demand;
        if let Some(window) = self.live.iter_mut().find(demand) {
            window.origin = Origin::Asked;
        }
    }

    /// Enters a window.
    pub fn insert(&mut self, window: Window) {
        if window.origin == Origin::Default {
            self.default = DefaultWindow::Live;
        }
        self.live.push(window);
    }

    /// Takes out the window with just that range.
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
