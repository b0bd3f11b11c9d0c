//! Compares the result of each step with its result under QEMU, and counts.

use super::infer::{Entry, Known, known, written};
use super::report::{Difference, MAX_DIFFERENCES, MAX_OFFERS, Offer, Offers, Report};
use super::timeline::{LocatedStep, Step, Window, WindowId};
use rangemap::RangeSet;
use spapr_iommu::addr::GuestAddr;
use spapr_iommu::guest::GuestTranslation;
use spapr_iommu::permission::Permission;
use std::collections::HashMap;

/// Start of QEMU's default window, and of a window created after its removal
/// (`rtas_ibm_create_pe_dma_window`).
const DEFAULT_START: u64 = 0;

/// A window and its number.
type Numbered<'a> = Option<(WindowId, &'a Window)>;

/// Compares steps, and counts them in a report.
pub(super) struct Comparison<'a> {
    report: &'a mut Report,
    /// Entries, by window, that may differ here from those under QEMU.
    unknown: HashMap<WindowId, RangeSet<u64>>,
}

impl<'a> Comparison<'a> {
    pub(super) fn new(report: &'a mut Report) -> Self {
        Self { report, unknown: HashMap::new() }
    }

    fn differ(&mut self, located: &LocatedStep, what: String, qemu: String, here: String) {
        self.report.different += 1;
        if self.report.differences.len() < MAX_DIFFERENCES {
            self.report.differences.push(Difference { line: located.line, what, qemu, here });
        }
    }

    /// Compares return codes; returns false if they differ.
    fn codes(&mut self, located: &LocatedStep, call: &str, qemu: i64, here: i64) -> bool {
        if qemu != here {
            let at = |ioba: u64, liobn: u64| format!("{call} at {ioba:#x} of LIOBN {liobn:#x}");
            let what = match located.step {
                Step::Put { liobn, ioba, .. }
                | Step::Get { liobn, ioba, .. }
                | Step::Stuff { liobn, ioba, .. }
                | Step::Indirect { liobn, ioba, .. } => at(ioba, liobn),
                _ => call.to_owned(),
            };
            self.differ(located, what, format!("returned {qemu}"), format!("{here}"));
        }
        qemu == here
    }

    fn is_unknown(&self, (id, window): (WindowId, &Window), ioba: u64) -> bool {
        let index = window.index(ioba);
        index.is_some_and(|index| self.unknown.get(&id).is_some_and(|entries| entries.contains(&index)))
    }

    /// Marks entries as equal to QEMU's from now on, or as unknown.
    fn mark(&mut self, id: WindowId, first: u64, count: u64, unknown: bool) {
        let range = first..first.saturating_add(count);
        if range.is_empty() {
            return;
        }
        let entries = self.unknown.entry(id).or_default();
        if unknown { entries.insert(range) } else { entries.remove(range) }
    }

    /// Marks the result of a writing hypercall: known entries if both wrote, unknown ones if only
    /// one did.
    fn wrote(&mut self, located: &LocatedStep, window: Numbered<'_>, qemu: i64, here: i64) {
        let Some((id, window)) = window else { return };
        let single = match located.step {
            Step::Put { ioba, .. } => window.index(ioba).map(|index| (index, 1)),
            _ => None,
        };
        if let Some((first, count)) = written(located, window).or(single.filter(|_| qemu != here)) {
            self.mark(id, first, count, qemu != 0 || here != 0);
        }
    }

    pub(super) fn put(&mut self, located: &LocatedStep, window: Numbered<'_>, qemu: i64, here: i64) {
        self.report.hypercalls.put += 1;
        self.report.tces.put += u64::from(qemu == 0);
        self.codes(located, "H_PUT_TCE", qemu, here);
        self.wrote(located, window, qemu, here);
    }

    pub(super) fn stuff(&mut self, located: &LocatedStep, window: Numbered<'_>, pages: u64, qemu: i64, here: i64) {
        self.report.hypercalls.stuff += 1;
        self.report.tces.stuff += if qemu == 0 { pages } else { 0 };
        self.codes(located, "H_STUFF_TCE", qemu, here);
        self.wrote(located, window, qemu, here);
    }

    pub(super) fn indirect(
        &mut self,
        located: &LocatedStep,
        window: Numbered<'_>,
        entries: &[Entry],
        qemu: i64,
        here: i64,
    ) {
        self.report.hypercalls.indirect += 1;
        self.codes(located, "H_PUT_TCE_INDIRECT", qemu, here);
        self.wrote(located, window, qemu, here);
        if qemu != 0 {
            return;
        }
        self.report.tces.indirect += entries.len() as u64;
        let counts = &mut self.report.entries;
        counts.last += known(entries, Known::Last);
        counts.direct += known(entries, Known::Direct);
        counts.seen += known(entries, Known::Seen);
        counts.run += known(entries, Known::Run);
        counts.unknown += known(entries, Known::Unknown);
        let Step::Indirect { ioba, .. } = located.step else { return };
        let Some((id, first)) = window.and_then(|(id, window)| Some((id, window.index(ioba)?))) else { return };
        for (index, _) in (first..).zip(entries).filter(|(_, entry)| entry.known == Known::Unknown) {
            self.mark(id, index, 1, true);
        }
    }

    pub(super) fn get(
        &mut self,
        located: &LocatedStep,
        window: Numbered<'_>,
        (qemu, tce): (i64, u64),
        (here, found): (i64, u64),
        used_as_proof: bool,
    ) {
        self.report.hypercalls.get += 1;
        let Step::Get { liobn, ioba, .. } = located.step else { return };
        let same = self.codes(located, "H_GET_TCE", qemu, here);
        let unknown = window.is_some_and(|window| self.is_unknown(window, ioba));
        if same && qemu == 0 && !unknown && !used_as_proof && tce != found {
            let what = format!("H_GET_TCE at {ioba:#x} of LIOBN {liobn:#x}");
            self.differ(located, what, format!("gave {tce:#x}"), format!("{found:#x}"));
        }
    }

    pub(super) fn translation(
        &mut self,
        located: &LocatedStep,
        window: Numbered<'_>,
        (here, reach): (Option<GuestTranslation>, Option<GuestAddr>),
        used_as_proof: bool,
    ) {
        let Step::Translate { liobn, ioba, target, permission, mask } = located.step else { return };
        let what = format!("bus address {ioba:#x} of LIOBN {liobn:#x}");
        self.agree(located, &what, here.map(|there| there.guest), reach);
        let unknown = window.is_some_and(|window| self.is_unknown(window, ioba));
        let counts = &mut self.report.translations;
        match (used_as_proof, unknown) {
            (true, _) => return counts.proofs += 1,
            (_, true) => return counts.unknown += 1,
            _ => counts.compared += 1,
        }
        let qemu = Permission::from_bits(permission).map(|permission| (target, permission, mask));
        let here = here.map(|there| (there.page.floor(there.guest.0), there.permission, there.mask() as u32));
        if qemu != here {
            let shown = |what: Option<(u64, Permission, u32)>| match what {
                Some((to, permission, mask)) => format!("leads to {to:#x} ({permission}, mask {mask:#x})"),
                None => "leads nowhere".to_owned(),
            };
            self.differ(located, what, shown(qemu), shown(here));
        }
    }

    /// Checks that emulated devices and those of the host reach the same byte, regardless of QEMU's
    /// answer.
    fn agree(&mut self, located: &LocatedStep, what: &str, emulated: Option<GuestAddr>, reach: Option<GuestAddr>) {
        if emulated != reach {
            let shown = |to: Option<GuestAddr>| to.map_or("nowhere".to_owned(), |to| to.to_string());
            let qemu = format!("does not say; here an emulated device reaches {}", shown(emulated));
            self.differ(located, what.to_owned(), qemu, format!("a device of the host reaches {}", shown(reach)));
        }
    }

    /// QEMU prints only RTAS calls that it carried out, so the status must be 0.
    fn carried_out<T>(&mut self, located: &LocatedStep, call: &str, rets: Result<T, String>) -> Option<T> {
        match rets {
            Ok(rets) => Some(rets),
            Err(why) => {
                self.differ(located, call.to_owned(), "returned 0".to_owned(), why);
                None
            }
        }
    }

    pub(super) fn query(&mut self, located: &LocatedStep, rets: Result<[u32; 5], String>) {
        self.report.rtas.query += 1;
        let Step::Query { windows: free, largest: block, pages: sizes, .. } = located.step else { return };
        let rets = self.carried_out(located, "ibm,query-pe-dma-window", rets);
        let Some([_, windows, largest, pages, _]) = rets else { return };
        let qemu = Offer { windows: free, largest: block, pages: sizes };
        let here = Offer { windows, largest: u64::from(largest), pages };
        let listed = &self.report.offers;
        if listed.len() < MAX_OFFERS && !listed.iter().any(|offers| offers.qemu == qemu && offers.here == here) {
            self.report.offers.push(Offers { line: located.line, qemu, here });
        }
    }

    /// Returns the LIOBN and the start of the window created here. Both may differ from QEMU's if
    /// the guest removed its default window: QEMU reuses its number and its place, where on powernv
    /// a window would overlap MMIO.
    pub(super) fn create(&mut self, located: &LocatedStep, rets: Result<[u32; 4], String>) -> Option<(u64, u64)> {
        self.report.rtas.create += 1;
        let Step::Create { page, size, start, liobn, .. } = located.step else { return None };
        let call = format!("ibm,create-pe-dma-window of 2^{size} bytes with pages of 2^{page}");
        let [_, number, high, low] = self.carried_out(located, &call, rets)?;
        let here = (u64::from(number), u64::from(high) << 32 | u64::from(low));
        if here.1 != start && start != DEFAULT_START {
            let shown = |(liobn, start): (u64, u64)| format!("LIOBN {liobn:#x} at {start:#x}");
            self.differ(located, call, format!("made {}", shown((liobn, start))), shown(here));
        }
        Some(here)
    }

    pub(super) fn remove(&mut self, located: &LocatedStep, rets: Result<[u32; 1], String>) {
        self.report.rtas.remove += 1;
        self.carried_out(located, "ibm,remove-pe-dma-window", rets);
    }

    pub(super) fn reset(&mut self, located: &LocatedStep, rets: Result<[u32; 1], String>) {
        self.report.rtas.reset += 1;
        self.carried_out(located, "ibm,reset-pe-dma-window", rets);
    }

    pub(super) fn machine_reset(&mut self, located: &LocatedStep, rets: Result<[u32; 1], String>) {
        self.report.machine_resets += 1;
        self.carried_out(located, "a reset of the machine, as ibm,reset-pe-dma-window", rets);
    }
}
