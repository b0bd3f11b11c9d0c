//! A trace as the guest saw it: steps, and the windows they belong to.
//!
//! QEMU prints LIOBNs only, and a LIOBN stands for one window after another. So [`Timeline::new`]
//! walks through the trace once, tracks what each LIOBN stands for, and converts QEMU's numbers to
//! the guest's: the IOBA an H_STUFF_TCE began at, the number of entries in a list, and when the
//! machine was reset.

use super::error::TraceError;
use super::liobns::{Bridge, WINDOW_BITS, bridge_by_default, bridge_of, bridge_with};
use super::trace::{Event, Trace};
use spapr_iommu::addr::{Iova, IovaRange, PageShift};
use std::collections::{BTreeMap, BTreeSet, HashMap};

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
    /// The machine was reset, and this bridge with it.
    MachineReset { bridge: Bridge },
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

/// Largest number of entries in a list (LoPAR, H_PUT_TCE_INDIRECT).
const MAX_ENTRIES: u64 = 512;

impl Timeline {
    /// Builds the steps of a trace, with that default window of 4 KiB pages on each bridge.
    pub(super) fn new(trace: &Trace, default: IovaRange) -> Result<Self, TraceError> {
        let mut builder = TimelineBuilder::new(trace, default);
        let machine_resets = machine_resets(trace);
        for (at, (line, event)) in trace.events.iter().enumerate() {
            builder.add(*line, event, machine_resets.contains(&at))?;
        }
        Ok(builder.timeline)
    }
}

/// Returns the bridges a trace names, in the order of their LIOBNs.
pub(super) fn bridges(trace: &Trace) -> Vec<Bridge> {
    let named = trace.events.iter().filter_map(|(_, event)| match event {
        Event::Query { buid, .. } | Event::Reset { buid, .. } => bridge_of(*buid),
        other => other.liobn().and_then(bridge_with),
    });
    let named = named.chain(trace.named.iter().copied().filter_map(bridge_with));
    let bridges: BTreeMap<_, _> = named.map(|bridge| (bridge.liobn, bridge)).collect();
    bridges.into_values().collect()
}

/// Finds table creations not caused by an RTAS call, i.e. machine resets: QEMU prints those of a
/// call before the call itself.
fn machine_resets(trace: &Trace) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    // Backwards: whether the next event of a LIOBN is the call that created its table.
    let mut called: HashMap<u64, bool> = HashMap::new();
    for (at, (_, event)) in trace.events.iter().enumerate().rev() {
        match *event {
            Event::NewTable { liobn } => {
                if !called.insert(liobn, false).unwrap_or(false) {
                    found.insert(at);
                }
            }
            Event::Create { liobn, .. } => drop(called.insert(liobn, true)),
            Event::Reset { buid, .. } => drop(bridge_of(buid).map(|bridge| called.insert(bridge.liobn.into(), true))),
            _ => drop(event.liobn().map(|liobn| called.insert(liobn, false))),
        }
    }
    found
}

/// Walks through a trace, event by event.
struct TimelineBuilder {
    timeline: Timeline,
    /// The window each LIOBN stands for now.
    now: BTreeMap<u64, WindowId>,
    /// Bridges whose first table was printed.
    started: BTreeSet<u64>,
    default: IovaRange,
}

impl TimelineBuilder {
    fn new(trace: &Trace, default: IovaRange) -> Self {
        let bridges = bridges(trace);
        let liobns: Vec<_> = bridges.iter().map(|bridge| u64::from(bridge.liobn)).collect();
        let timeline = Timeline { bridges, ..Timeline::default() };
        let mut builder = Self { timeline, now: BTreeMap::new(), started: BTreeSet::new(), default };
        liobns.into_iter().for_each(|liobn| builder.open_default(liobn));
        builder
    }

    fn open(&mut self, window: Window) {
        self.now.insert(window.liobn, self.timeline.windows.len());
        self.timeline.windows.push(window);
    }

    fn open_default(&mut self, liobn: u64) {
        self.open(Window { liobn, range: self.default, page: PageShift::P4K, dynamic: false });
    }

    /// Resets a bridge to its default window, empty, and no other.
    fn reset(&mut self, liobn: u64) {
        let gone: Vec<_> = self.now.range(liobn..=liobn | WINDOW_BITS).map(|(one, _)| *one).collect();
        gone.iter().for_each(|one| _ = self.now.remove(one));
        self.open_default(liobn);
    }

    fn add(&mut self, line: u64, event: &Event, machine_resets: bool) -> Result<(), TraceError> {
        let window = event.liobn().and_then(|liobn| self.now.get(&liobn).copied());
        let impossible = |what| TraceError::Impossible { line, what };
        let missing = |liobn| TraceError::NoWindow { line, liobn };
        let known = window.and_then(|id| self.timeline.windows.get(id).copied());
        let step = match *event {
            Event::NewTable { liobn } => {
                let Some(bridge) = bridge_by_default(liobn).filter(|_| machine_resets) else { return Ok(()) };
                // The first time, the machine starts, and everything is as it is here anyway.
                if self.started.insert(liobn) {
                    return Ok(());
                }
                self.reset(liobn);
                Step::MachineReset { bridge }
            }
            Event::Put { liobn, ret: 0, .. }
            | Event::Get { liobn, ret: 0, .. }
            | Event::Stuff { liobn, ret: 0, .. }
            | Event::Indirect { liobn, ret: 0, .. }
                if known.is_none() =>
            {
                return Err(missing(liobn));
            }
            Event::Put { liobn, ioba, tce, ret } => Step::Put { liobn, ioba, tce, ret },
            Event::Get { liobn, ioba, tce, ret } => Step::Get { liobn, ioba, tce, ret },
            Event::Stuff { liobn, stopped, tce, pages, ret } => {
                let bytes = known.and_then(|window| pages.checked_mul(window.page.bytes()));
                let began = if ret == 0 { bytes.and_then(|bytes| stopped.checked_sub(bytes)) } else { Some(stopped) };
                let ioba = began.ok_or(impossible("ioba, where H_STUFF_TCE stopped, is less than npages pages"))?;
                Step::Stuff { liobn, ioba, tce, pages, ret }
            }
            Event::Indirect { liobn, ioba, list, last, tce, ret } => {
                let count = match known.filter(|_| ret != 0) {
                    Some(window) => failed_count(&window, ioba, last),
                    None => last.checked_add(1),
                };
                let count = count.filter(|count| *count <= MAX_ENTRIES);
                let count = count.ok_or(impossible("iobaN is an index below 512, and the last one a call reached"))?;
                Step::Indirect { liobn, ioba, list, count, tce, ret }
            }
            Event::Translate { liobn, offset, target, permission, mask } => {
                let window = known.ok_or(missing(liobn))?;
                let ioba = window.range.start().0.checked_add(offset);
                let ioba = ioba.ok_or(impossible("the address lies past the last bus address"))?;
                Step::Translate { liobn, ioba, target, permission, mask }
            }
            Event::Query { buid, address, windows, largest, pages } => {
                Step::Query { buid, address, windows, largest, pages }
            }
            Event::Create { buid, address, page, size, start, liobn } => {
                let shift = PageShift::from_bytes(page).ok_or(impossible("no POWER IOMMU has pages of this size"))?;
                let range = IovaRange::new(Iova(start), size)
                    .ok()
                    .filter(|range| range.len().is_power_of_two() && range.is_aligned(shift));
                let range =
                    range.ok_or(impossible("the window is not a power of two, smaller than a page, or not aligned"))?;
                self.open(Window { liobn, range, page: shift, dynamic: true });
                let (page, size) = (shift.get(), size.trailing_zeros());
                let window = self.now.get(&liobn).copied();
                let step = Step::Create { buid, address, page, size, start, liobn };
                self.timeline.steps.push(LocatedStep { line, step, window });
                return Ok(());
            }
            Event::Remove { liobn } => {
                self.now.remove(&liobn);
                Step::Remove { liobn }
            }
            Event::Reset { buid, address } => {
                if let Some(bridge) = bridge_of(buid) {
                    self.reset(bridge.liobn.into());
                }
                Step::Reset { buid, address }
            }
        };
        self.timeline.steps.push(LocatedStep { line, step, window });
        Ok(())
    }
}

/// Returns the fewest entries a refused list had: up to the one it was refused for, the first that
/// lies outside the window. `last` must be the one before it. A list without entries is refused as
/// well.
fn failed_count(window: &Window, ioba: u64, last: u64) -> Option<u64> {
    let left = window.index(ioba).map_or(0, |index| window.entries() - index);
    match left {
        0 => (last == 0).then_some(1),
        _ if last == left - 1 => left.checked_add(1),
        _ => (last == 0).then_some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &str = "spapr_iommu_ddw_query buid=0x800000020000000 addr=0x0, 1 windows available, max window \
                         size=0x80000000, mask=0x3\n";
    const TABLE: &str = "spapr_iommu_new_table liobn=0x80000000 table=0x1 fd=-1\n";
    const DYNAMIC_TABLE: &str = "spapr_iommu_new_table liobn=0x80000001 table=0x1 fd=-1\n";
    const CREATE: &str = "spapr_iommu_ddw_create buid=0x800000020000000 addr=0x0, page size=0x10000, \
                          requested=0x100000000, start addr=0x800000000000000, liobn=0x80000001\n";
    const REMOVE: &str = "spapr_iommu_ddw_remove liobn=0x80000001\n";
    const RESET: &str = "spapr_iommu_ddw_reset buid=0x800000020000000 addr=0x0\n";
    const SEE: &str = "spapr_iommu_xlate liobn=0x80000001 0x10004 -> 0x30000 perm=3 mask=0xffff\n";

    fn timeline(parts: &[&str]) -> Result<Timeline, TraceError> {
        let trace = Trace::from_text(parts.concat().as_bytes(), Trace::MAX_EVENTS, |_| ())?;
        Timeline::new(&trace, IovaRange::new(Iova(0), 1 << 30).unwrap())
    }

    fn steps(parts: &[&str]) -> Vec<Step> {
        timeline(parts).unwrap().steps.iter().map(|located| located.step).collect()
    }

    #[test]
    fn a_bridge_is_known_by_its_liobns_and_its_buid() {
        let first = Bridge { liobn: 0x8000_0000, buid: 0x0800_0000_2000_0000 };
        assert_eq!(timeline(&[QUERY]).unwrap().bridges, [first]);
        assert_eq!(timeline(&[TABLE, QUERY]).unwrap().bridges, [first]);
        let second = "spapr_iommu_new_table liobn=0x80000100 table=0x1 fd=-1\n";
        let both = [first, Bridge { liobn: 0x8000_0100, buid: 0x0800_0000_2000_0001 }];
        assert_eq!(timeline(&[TABLE, second]).unwrap().bridges, both);
    }

    #[test]
    fn a_stuff_is_told_by_where_it_stopped() {
        let stuff = "spapr_iommu_pci_stuff liobn=0x80000000 ioba=0x3000 tcevalue=0x0 npages=2 ret=0\n";
        let began = Step::Stuff { liobn: 0x8000_0000, ioba: 0x1000, tce: 0, pages: 2, ret: 0 };
        assert_eq!(steps(&[stuff]), [began]);
        for wrong in [stuff.replace("0x3000", "0x1000"), stuff.replace("npages=2", "npages=18446744073709551615")] {
            assert!(matches!(timeline(&[&wrong]), Err(TraceError::Impossible { line: 1, .. })), "{wrong}");
        }
    }

    #[test]
    fn a_liobn_stands_for_one_window_after_another() {
        let built = timeline(&[TABLE, DYNAMIC_TABLE, CREATE, SEE, REMOVE, DYNAMIC_TABLE, CREATE, SEE]).unwrap();
        let windows: Vec<_> = built.steps.iter().map(|located| located.window).collect();
        assert_eq!(windows, [Some(1), Some(1), Some(1), Some(2), Some(2)]);
        assert!(built.windows[1].dynamic && !built.windows[0].dynamic);
        let at = 0x0800_0000_0001_0004;
        assert!(matches!(built.steps[1].step, Step::Translate { ioba, .. } if ioba == at), "{:?}", built.steps[1]);
        for gone in [&[CREATE, REMOVE, SEE], &[CREATE, RESET, SEE]] {
            assert!(matches!(timeline(gone), Err(TraceError::NoWindow { line: 3, liobn: 0x8000_0001 })));
        }
    }

    #[test]
    fn a_table_no_call_asked_for_is_a_machine_that_starts_again() {
        let reset = Step::MachineReset { bridge: Bridge { liobn: 0x8000_0000, buid: 0x0800_0000_2000_0000 } };
        assert_eq!(steps(&[TABLE, QUERY, TABLE, QUERY])[1], reset);
        assert!(!steps(&[TABLE, QUERY, TABLE, RESET]).contains(&reset));
        let reused = CREATE.replace("liobn=0x80000001", "liobn=0x80000000");
        assert!(!steps(&[TABLE, QUERY, TABLE, &reused]).contains(&reset));
    }

    #[test]
    fn a_refused_list_ends_with_the_entry_that_lies_outside() {
        let refused = |ioba: u64, last: u64| {
            let text = format!(
                "spapr_iommu_pci_indirect liobn=0x80000000 ioba={ioba:#x} tcelist=0x5000 iobaN={last:#x} tceN=0x1003 \
                 ret=-4\n"
            );
            match timeline(&[&text]).map(|built| built.steps[0].step) {
                Ok(Step::Indirect { count, .. }) => Some(count),
                _ => None,
            }
        };
        assert_eq!(refused(0x3fff_e000, 1), Some(3));
        assert_eq!(refused(0x3fff_f000, 0), Some(2));
        assert_eq!(refused(0x4000_0000, 0), Some(1));
        assert_eq!(refused(0x1000, 0), Some(0), "a list without entries is refused as well");
        assert_eq!(refused(0x1000, 3), None);
        assert_eq!(refused(0x4000_0000, 3), None);
    }

    #[test]
    fn what_is_refused_for_lack_of_a_window_is_reported() {
        let put = "spapr_iommu_pci_put liobn=0x80000001 ioba=0x0 tce=0x1003 ret=-4\n";
        let list = "spapr_iommu_pci_indirect liobn=0x80000001 ioba=0x0 tcelist=0x5000 iobaN=0x0 tceN=0x1003 ret=-4\n";
        assert_eq!(steps(&[put, list]).len(), 2);
        for done in [put, list] {
            let done = done.replace("ret=-4", "ret=0");
            assert!(matches!(timeline(&[&done]), Err(TraceError::NoWindow { line: 1, liobn: 0x8000_0001 })), "{done}");
        }
    }

    #[test]
    fn a_list_has_at_most_512_entries() {
        let list =
            "spapr_iommu_pci_indirect liobn=0x80000000 ioba=0x1000 tcelist=0x5000 iobaN=0x1ff tceN=0x1003 ret=0\n";
        assert!(matches!(steps(&[list])[..], [Step::Indirect { count: 512, .. }]));
        assert!(matches!(timeline(&[&list.replace("0x1ff", "0x200")]), Err(TraceError::Impossible { .. })));
    }
}
