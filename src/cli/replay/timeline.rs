//! A trace as the guest saw it: steps, and the windows they belong to.

use spapr_iommu::addr::{Iova, IovaRange, PageShift};

/// A window, from its creation to its removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) liobn: u64,
    pub(super) range: IovaRange,
    pub(super) page: PageShift,
    /// Whether it was created by ibm,create-pe-dma-window.
    pub(super) dynamic: bool,
}

/// An index into [`Timeline::windows`].
pub(super) type WindowId = usize;

/// An event as the guest saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The machine was reset; this is the LIOBN of a bridge's default window.
    MachineReset { liobn: u64 },
    /// H_PUT_TCE.
    Put { liobn: u64, ioba: u64, tce: u64, ret: i64 },
    /// H_GET_TCE.
    Get { liobn: u64, ioba: u64, tce: u64, ret: i64 },
    /// H_STUFF_TCE.
    Stuff { liobn: u64, ioba: u64, tce: u64, pages: u64, ret: i64 },
    /// H_PUT_TCE_INDIRECT of `count` entries, the last of which is `tce`.
    Indirect { liobn: u64, ioba: u64, list: u64, count: u64, tce: u64, ret: i64 },
    /// A translation; the IOBA is the whole bus address.
    Translate { liobn: u64, ioba: u64, target: u64, permission: u32, mask: u32 },
    /// ibm,query-pe-dma-window.
    Query { buid: u64, address: u32, windows: u32, largest: u64, pages: u32 },
    /// ibm,create-pe-dma-window.
    Create { buid: u64, address: u32, page: u32, size: u32, start: u64, liobn: u64 },
    /// ibm,remove-pe-dma-window.
    Remove { liobn: u64 },
    /// ibm,reset-pe-dma-window.
    Reset { buid: u64, address: u32 },
}

/// A step with its line, and its window, if it has one.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocatedStep {
    pub(super) line: u64,
    pub(super) step: Step,
    pub(super) window: Option<WindowId>,
}

/// A trace as the guest saw it.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    pub(super) steps: Vec<LocatedStep>,
    pub(super) windows: Vec<Window>,
    /// The bridges, in the order of their LIOBNs.
    pub(super) bridges: Vec<Bridge>,
}

/// A PCI host bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bridge {
    pub(super) liobn: u64,
    pub(super) buid: u64,
}

impl Window {
    /// Returns the number of the entry at a bus address, if the window has it.
    pub(super) fn index(&self, ioba: u64) -> Option<u64> {
        let inside = self.range.contains(Iova(ioba));
        inside.then(|| (ioba - self.range.start().0) >> self.page.get())
    }

    /// Returns the number of entries in its table.
    pub(super) fn entries(&self) -> u64 {
        self.range.len() >> self.page.get()
    }
}
