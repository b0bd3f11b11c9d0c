//! Feeds a trace through the guest's handlers, and compares.

use super::compare::Comparison;
use super::error::ReplayError;
use super::guest::{Guest, guess_memory};
use super::infer::Proofs;
use super::liobns::{Bridge, Liobns};
use super::report::{Ioctls, Lines, Report};
use super::timeline::{LocatedStep, Step, Timeline, bridges};
use super::trace::Trace;
use crate::machine::Machine;
use crate::scenario::End;
use spapr_iommu::addr::{Iova, IovaRange, PageShift, UserRange};
use spapr_iommu::guest::{GuestIommu, RtasCall};
use spapr_iommu::uapi::papr::hcall::{H_GET_TCE, H_PUT_TCE, H_PUT_TCE_INDIRECT, H_STUFF_TCE};

/// Steps between two progress reports.
const STRIDE: usize = 256;
/// QEMU's default window, bytes.
const DEFAULT_WINDOW: u64 = 1 << 30;

/// Options that a trace does not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// The guest's RAM, bytes; `None` for the smallest power of two that holds everything the trace
    /// shows, at least 16 MiB.
    pub memory: Option<u64>,
    /// The default window of each PCI host bridge, bytes: QEMU's `dma_win_size`.
    pub default_window: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { memory: None, default_window: DEFAULT_WINDOW }
    }
}

impl Options {
    /// Returns the default window.
    fn default_range(&self) -> Result<IovaRange, ReplayError> {
        let range = IovaRange::new(Iova(0), self.default_window)?;
        let whole = range.is_aligned(PageShift::P4K);
        whole.then_some(range).ok_or(ReplayError::DefaultWindow { bytes: self.default_window })
    }
}

impl Trace {
    /// Returns the number of PCI host bridges that the trace names: as many groups of the host are
    /// needed.
    pub fn bridges(&self) -> usize {
        bridges(self).len()
    }

    /// Replays the trace on a machine. `progress` occasionally receives the steps done and all
    /// steps.
    ///
    /// # Errors
    /// [`ReplayError`] if the trace is inconsistent or the machine cannot have such a guest. A
    /// result that differs from QEMU's is not an error; it is in the report.
    pub fn replay(
        &self,
        machine: &Machine,
        options: &Options,
        progress: impl FnMut(usize, usize),
    ) -> Result<Report, ReplayError> {
        self.replay_until(machine, options, progress, || false)
    }

    /// Replays the trace until `ends` returns true; then everything is released.
    ///
    /// # Errors
    /// As for [`Self::replay`], and [`ReplayError::Interrupted`].
    pub fn replay_until(
        &self,
        machine: &Machine,
        options: &Options,
        progress: impl FnMut(usize, usize),
        ends: impl FnMut() -> bool,
    ) -> Result<Report, ReplayError> {
        self.replay_watched(machine, options, progress, ends, &mut ())
    }

    /// Replays the trace as [`Self::replay_until`] does, and lets a watcher see its steps.
    pub fn replay_watched(
        &self,
        machine: &Machine,
        options: &Options,
        mut progress: impl FnMut(usize, usize),
        mut ends: impl FnMut() -> bool,
        watcher: &mut dyn Watcher,
    ) -> Result<Report, ReplayError> {
        let default = options.default_range()?;
        progress(0, self.events.len());
        let timeline = Timeline::new(self, default)?;
        let proofs = Proofs::new(&timeline);
        let locked = machine.locked();
        let memory = options.memory.unwrap_or_else(|| guess_memory(&timeline));
        let page = machine.host().page_shift();
        if memory == 0 || !memory.is_multiple_of(page.bytes()) {
            return Err(ReplayError::MemorySize { bytes: memory, page });
        }
        let guest = Guest::new(machine, &timeline, memory, default)?;
        let mut report = blank(self, &timeline, machine, memory);
        let liobns = Liobns::new(timeline.bridges.iter().map(|bridge| bridge.liobn.into()));
        let comparison = Comparison::new(&mut report);
        let mut run = Run { timeline: &timeline, proofs: &proofs, guest: &guest, liobns, comparison };
        let mut ioctls = Ioctls::default();
        watcher.begins(timeline.steps.len());
        let locked_now = || {
            let all = machine.locked().saturating_sub(locked);
            (memory.min(all), all.saturating_sub(memory))
        };
        for (at, located) in timeline.steps.iter().enumerate() {
            if at % STRIDE == 0 {
                let all = timeline.steps.len();
                progress(at, all);
                if ends() {
                    guest.end();
                    return Err(ReplayError::Interrupted { done: at, all });
                }
            }
            run.step(at, located);
            let (map, unmap) = guest.ioctls();
            watcher.step(at, &locked_now);
            ioctls = Ioctls { map: ioctls.map + map, unmap: ioctls.unmap + unmap, ..ioctls };
        }
        watcher.ends(&guest.iommu, guest.ram);
        guest.end();
        let end = End { locked: machine.locked().saturating_sub(locked), damage: machine.damage() };
        report.ioctls = Ioctls { one_per_tce: report.tces.all(), ..ioctls };
        report.passed = report.different == 0 && end.is_clean();
        report.end = end;
        Ok(report)
    }
}

/// Watches a replay.
pub trait Watcher {
    /// The trace has that many steps.
    fn begins(&mut self, steps: usize) {
        let _ = steps;
    }

    /// A step has run; `locked` returns the bytes locked now for RAM, and for everything else.
    fn step(&mut self, at: usize, locked: &dyn Fn() -> (u64, u64)) {
        let _ = (at, locked);
    }

    /// All steps have run, and nothing is released yet. The guest's RAM is one slot at address 0.
    fn ends(&mut self, guest: &GuestIommu, ram: UserRange) {
        let _ = (guest, ram);
    }
}

/// Watches nothing.
impl Watcher for () {}

fn blank(trace: &Trace, timeline: &Timeline, machine: &Machine, memory: u64) -> Report {
    let host = machine.host();
    let events = trace.all_events();
    Report {
        host: machine.note(&[]),
        platform: host.platform().map(|platform| platform.to_string()),
        page: host.page_shift().bytes(),
        memory,
        bridges: timeline.bridges.len(),
        lines: Lines { all: trace.lines, events, other_iommu: trace.other_iommu, other: trace.other },
        hypercalls: Default::default(),
        rtas: Default::default(),
        machine_resets: 0,
        tces: Default::default(),
        entries: Default::default(),
        ioctls: Default::default(),
        translations: Default::default(),
        offers: Vec::new(),
        differences: Vec::new(),
        different: 0,
        end: End::default(),
        passed: false,
    }
}

/// A replay in progress.
struct Run<'a> {
    timeline: &'a Timeline,
    proofs: &'a Proofs,
    guest: &'a Guest<'a>,
    liobns: Liobns,
    comparison: Comparison<'a>,
}

impl Run<'_> {
    fn step(&mut self, at: usize, located: &LocatedStep) {
        let window = located.window.and_then(|id| Some((id, self.timeline.windows.get(id)?)));
        let compare = &mut self.comparison;
        match located.step {
            Step::Put { liobn, ioba, tce, ret } => {
                let (liobn, ioba) = self.liobns.here(liobn, ioba);
                let (here, _) = self.guest.hypercall(H_PUT_TCE, [liobn, ioba, tce, 0]);
                compare.put(located, window, ret, here);
            }
            Step::Stuff { liobn, ioba, tce, pages, ret } => {
                let (liobn, ioba) = self.liobns.here(liobn, ioba);
                let (here, _) = self.guest.hypercall(H_STUFF_TCE, [liobn, ioba, tce, pages]);
                compare.stuff(located, window, pages, ret, here);
            }
            Step::Indirect { liobn, ioba, list, count, ret, .. } => {
                let entries = self.proofs.entries(self.timeline, at).unwrap_or_default();
                self.guest.write_list(list, entries.iter().map(|entry| entry.tce));
                let (liobn, ioba) = self.liobns.here(liobn, ioba);
                let (here, _) = self.guest.hypercall(H_PUT_TCE_INDIRECT, [liobn, ioba, list, count]);
                compare.indirect(located, window, &entries, ret, here);
            }
            Step::Get { liobn, ioba, tce, ret } => {
                let (liobn, ioba) = self.liobns.here(liobn, ioba);
                let (here, found) = self.guest.hypercall(H_GET_TCE, [liobn, ioba, 0, 0]);
                compare.get(located, window, (ret, tce), (here, found), self.proofs.is_used_as_proof(at));
            }
            Step::Translate { liobn, ioba, .. } => {
                let (liobn, ioba) = self.liobns.here(liobn, ioba);
                let here = self.guest.translate(liobn, ioba);
                let reach = self.guest.reach(liobn, ioba);
                compare.translation(located, window, (here, reach), self.proofs.is_used_as_proof(at));
            }
            Step::Query { buid, address, .. } => {
                let rets = self.guest.rtas::<5>(RtasCall::QueryPeDmaWindow, &[address, high(buid), low(buid)]);
                compare.query(located, rets);
            }
            Step::Create { buid, address, page, size, start, liobn } => {
                let args = [address, high(buid), low(buid), page, size];
                let rets = self.guest.rtas::<4>(RtasCall::CreatePeDmaWindow, &args);
                if let Some(here) = compare.create(located, rets) {
                    self.liobns.made((liobn, start), here);
                }
            }
            Step::Remove { liobn } => {
                let rets = self.guest.rtas::<1>(RtasCall::RemovePeDmaWindow, &[low(self.liobns.removed(liobn))]);
                compare.remove(located, rets);
            }
            Step::Reset { buid, address } => {
                let rets = self.guest.rtas::<1>(RtasCall::ResetPeDmaWindow, &[address, high(buid), low(buid)]);
                compare.reset(located, rets);
                if let Some(bridge) = self.timeline.bridges.iter().find(|bridge| bridge.buid == buid) {
                    self.liobns.reset(bridge.liobn.into());
                }
            }
            Step::MachineReset { bridge: Bridge { liobn, buid } } => {
                let rets = self.guest.rtas::<1>(RtasCall::ResetPeDmaWindow, &[0, high(buid), low(buid)]);
                compare.machine_reset(located, rets);
                self.liobns.reset(liobn.into());
            }
        }
    }
}

fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn low(value: u64) -> u32 {
    value as u32
}
