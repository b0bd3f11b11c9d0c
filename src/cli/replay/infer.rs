//! Infers the entries of H_PUT_TCE_INDIRECT lists that the trace proves.
//!
//! QEMU prints a list's address, the number of its last entry and that entry's TCE. The other
//! entries are inferred as follows:
//!
//! * **direct**: the window is a dynamic one, and every list put in it ends with a TCE for the
//!   guest address that equals the entry's distance from the window's start, as does every single
//!   TCE put in it: the guest maps its RAM directly there. Translations are not part of this proof;
//!   all of them are compared.
//! * **seen**: a later line shows the entry before anything else is written to it: a translation
//!   gives address and rights, H_GET_TCE the TCE. The first such line is the proof and proves
//!   nothing else, so it is not compared.
//! * **run**: two proven entries of one list have the same rights, and their addresses are as far
//!   apart as the entries: those between continue the first.
//!
//! An entry without proof is unknown: it is replayed as no mapping, and nothing about it is
//! compared until it is written again.

use super::timeline::{LocatedStep, Step, Timeline, Window, WindowId};
use spapr_iommu::permission::Permission;
use std::collections::{BTreeMap, HashMap, HashSet};

/// How an entry of a list is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// The trace shows it.
    Last,
    /// The window maps RAM directly.
    Direct,
    /// A later line shows it.
    Seen,
    /// It lies between two entries that continue each other.
    Run,
    /// It is unknown.
    Unknown,
}

/// An entry of a list; an unknown one is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) tce: u64,
    pub(super) known: Known,
}

/// Counts the entries known in that way.
pub(super) fn known(entries: &[Entry], known: Known) -> u64 {
    entries.iter().filter(|entry| entry.known == known).count() as u64
}

/// A list that the guest put.
#[derive(Clone, Copy, Debug)]
struct List {
    window: WindowId,
    first: u64,
    count: u64,
    last: u64,
}

/// What a trace proves.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    /// By window, whether RAM is mapped directly.
    direct: Vec<bool>,
    /// By step, the entries that later steps show: their index in the list, with the TCE.
    seen: HashMap<usize, BTreeMap<u64, u64>>,
    /// Steps used as such a proof.
    used_as_proof: HashSet<usize>,
}

/// The first line that shows an entry after it was written.
#[derive(Clone, Copy, Debug)]
struct Evidence {
    step: usize,
    tce: u64,
}

type EvidenceByEntry = BTreeMap<(WindowId, u64), Evidence>;

impl Proofs {
    pub(super) fn new(timeline: &Timeline) -> Self {
        let mut proofs = Self { direct: direct(timeline), ..Self::default() };
        // Backwards, so that a later line that shows an entry is known before the list that wrote
        // it.
        let mut evidence = EvidenceByEntry::new();
        for (at, located) in timeline.steps.iter().enumerate().rev() {
            let known = located.window.and_then(|id| Some((id, timeline.windows.get(id)?)));
            let Some((id, window)) = known else { continue };
            if let Some((index, tce)) = shown(located, window) {
                evidence.insert((id, index), Evidence { step: at, tce });
            }
            let Some((first, count)) = written(located, window) else { continue };
            let list = list(timeline, located).filter(|list| !proofs.is_direct(list));
            for (index, sight) in take(&mut evidence, id, first, count) {
                if let Some(list) = list.filter(|list| index + 1 < list.first + list.count) {
                    proofs.seen.entry(at).or_default().insert(index - list.first, sight.tce);
                    proofs.used_as_proof.insert(sight.step);
                }
            }
        }
        proofs
    }

    /// Returns whether the list maps RAM directly. A list that ends without rights says nothing
    /// about the entries before.
    fn is_direct(&self, list: &List) -> bool {
        self.direct.get(list.window).copied().unwrap_or(false) && list.last & 3 != 0
    }

    /// Returns whether that step is used as a proof, so that comparing it would be circular.
    pub(super) fn is_used_as_proof(&self, step: usize) -> bool {
        self.used_as_proof.contains(&step)
    }

    /// Returns the entries of the list of step `at`, if that is H_PUT_TCE_INDIRECT. Of a list that
    /// was refused only the last entry is known.
    pub(super) fn entries(&self, timeline: &Timeline, at: usize) -> Option<Vec<Entry>> {
        let located = timeline.steps.get(at)?;
        let Step::Indirect { count, tce, ret, .. } = located.step else { return None };
        let mut entries = vec![Entry { tce: 0, known: Known::Unknown }; usize::try_from(count).ok()?];
        if let Some(last) = entries.last_mut() {
            *last = Entry { tce, known: Known::Last };
        }
        let window = timeline.windows.get(located.window?)?;
        let Some(list) = list(timeline, located).filter(|_| ret == 0) else { return Some(entries) };
        if self.is_direct(&list) {
            let low = tce & window.page.mask();
            for (index, entry) in (list.first..).zip(&mut entries).filter(|(_, entry)| entry.known == Known::Unknown) {
                *entry = Entry { tce: index << window.page.get() | low, known: Known::Direct };
            }
            return Some(entries);
        }
        for (index, tce) in self.seen.get(&at).into_iter().flatten() {
            if let Some(entry) = usize::try_from(*index).ok().and_then(|index| entries.get_mut(index)) {
                *entry = Entry { tce: *tce, known: Known::Seen };
            }
        }
        fill_runs(&mut entries, window);
        Some(entries)
    }
}

/// Returns the page and the rights of a TCE.
fn meaning(tce: u64, window: &Window) -> (u64, Option<Permission>) {
    (window.page.floor(tce), Permission::from_bits((tce & 3) as u32))
}

/// Returns the list of a call that was carried out.
fn list(timeline: &Timeline, located: &LocatedStep) -> Option<List> {
    let Step::Indirect { ioba, count, tce, ret: 0, .. } = located.step else { return None };
    let id = located.window?;
    let first = timeline.windows.get(id)?.index(ioba)?;
    Some(List { window: id, first, count, last: tce })
}

/// Returns, for each window, whether it maps RAM directly.
fn direct(timeline: &Timeline) -> Vec<bool> {
    // `None` until a step decides.
    let mut decided: Vec<Option<bool>> = vec![None; timeline.windows.len()];
    for located in &timeline.steps {
        let single = match located.step {
            Step::Put { ioba, tce, ret: 0, .. } => Some((ioba, tce)),
            _ => None,
        };
        let Some((id, window)) = located.window.and_then(|id| Some((id, timeline.windows.get(id)?))) else { continue };
        let (index, tce, proves) = match (single, list(timeline, located)) {
            (Some((ioba, tce)), _) => (window.index(ioba), tce, false),
            (None, Some(list)) => ((list.first + list.count).checked_sub(1), list.last, true),
            (None, None) => continue,
        };
        let (page, rights) = meaning(tce, window);
        let fits = rights.is_none() || index.is_some_and(|index| page == index << window.page.get());
        if let Some(decided) = decided.get_mut(id) {
            *decided = match *decided {
                _ if !fits => Some(false),
                None if proves && rights.is_some() => Some(true),
                before => before,
            };
        }
    }
    decided.iter().zip(&timeline.windows).map(|(decided, window)| window.dynamic && *decided == Some(true)).collect()
}

/// Returns the entry a step shows, and its TCE.
fn shown(located: &LocatedStep, window: &Window) -> Option<(u64, u64)> {
    match located.step {
        Step::Get { ioba, tce, ret: 0, .. } => Some((window.index(ioba)?, tce)),
        Step::Translate { ioba, target, permission, mask, .. } => {
            let whole = mask == window.page.mask() as u32 && permission <= 3;
            Some((window.index(ioba)?, window.page.floor(target) | u64::from(permission))).filter(|_| whole)
        }
        _ => None,
    }
}

/// Returns the entries a step wrote, or may have written: the first, and how many.
pub(super) fn written(located: &LocatedStep, window: &Window) -> Option<(u64, u64)> {
    let left = |index: u64| window.entries().saturating_sub(index);
    match located.step {
        Step::Put { ioba, ret: 0, .. } => Some((window.index(ioba)?, 1)),
        Step::Stuff { ioba, pages, ret: 0, .. } => {
            let first = window.index(ioba)?;
            Some((first, pages.min(left(first))))
        }
        // QEMU writes entries until one lies outside the window, and does not print where it began.
        Step::Stuff { pages, .. } => {
            let first = window.entries().saturating_sub(pages);
            Some((first, left(first)))
        }
        Step::Indirect { ioba, count, .. } => {
            let first = window.index(ioba)?;
            Some((first, count.min(left(first))))
        }
        _ => None,
    }
}

/// Removes and returns the evidence for some entries.
fn take(evidence: &mut EvidenceByEntry, id: WindowId, first: u64, count: u64) -> Vec<(u64, Evidence)> {
    let found = evidence.range((id, first)..(id, first.saturating_add(count)));
    let found: Vec<_> = found.map(|((_, index), sight)| (*index, *sight)).collect();
    for (index, _) in &found {
        evidence.remove(&(id, *index));
    }
    found
}

/// Fills in the entries between proven ones that continue each other.
fn fill_runs(entries: &mut [Entry], window: &Window) {
    let proven: Vec<_> = (0..).zip(&*entries).filter(|(_, entry)| entry.known != Known::Unknown).collect();
    let proven: Vec<(usize, u64)> = proven.into_iter().map(|(at, entry)| (at, entry.tce)).collect();
    for pair in proven.windows(2) {
        let [(from, first), (to, last)] = *pair else { continue };
        let ((start, rights), (end, same)) = (meaning(first, window), meaning(last, window));
        let apart = ((to - from) as u64) << window.page.get();
        if rights.is_none() || rights != same || start.checked_add(apart) != Some(end) {
            continue;
        }
        let tces = (1..).map(|step: u64| first + (step << window.page.get()));
        for (entry, tce) in entries.iter_mut().take(to).skip(from + 1).zip(tces) {
            *entry = Entry { tce, known: Known::Run };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::Trace;
    use spapr_iommu::addr::{Iova, IovaRange};

    const CREATE: &str = "spapr_iommu_ddw_create buid=0x800000020000000 addr=0x0, page size=0x10000, \
                          requested=0x100000000, start addr=0x800000000000000, liobn=0x80000001\n";

    fn timeline(text: &str) -> Timeline {
        let default = IovaRange::new(Iova(0), 1 << 30).unwrap();
        Timeline::new(&Trace::from_text(text.as_bytes(), Trace::MAX_EVENTS, |_| ()).unwrap(), default).unwrap()
    }

    /// Returns the entries of the last list of a trace, each with its proof and TCE.
    fn last_list(text: &str) -> Vec<(Known, u64)> {
        let timeline = timeline(text);
        let proofs = Proofs::new(&timeline);
        let is_list = |located: &LocatedStep| matches!(located.step, Step::Indirect { .. });
        let at = timeline.steps.iter().rposition(is_list).unwrap();
        proofs.entries(&timeline, at).unwrap().iter().map(|entry| (entry.known, entry.tce)).collect()
    }

    fn indirect(liobn: u64, ioba: u64, last: u64, tce: u64) -> String {
        format!(
            "spapr_iommu_pci_indirect liobn={liobn:#x} ioba={ioba:#x} tcelist=0x5000 iobaN={last:#x} tceN={tce:#x} \
             ret=0\n"
        )
    }

    fn translate(offset: u64, target: u64) -> String {
        format!("spapr_iommu_xlate liobn=0x80000000 {offset:#x} -> {target:#x} perm=3 mask=0xfff\n")
    }

    #[test]
    fn a_dynamic_window_is_direct_when_every_list_ends_so() {
        let dynamic = |offset: u64, tce| indirect(0x8000_0001, (1 << 59) + offset, 2, tce);
        let direct = format!("{CREATE}{}", dynamic(0x3_0000, 0x5_0001));
        let known = [(Known::Direct, 0x3_0001), (Known::Direct, 0x4_0001), (Known::Last, 0x5_0001)];
        assert_eq!(last_list(&direct), known);
        let elsewhere = format!("{CREATE}{}{}", dynamic(0, 0x9_0003), dynamic(0x3_0000, 0x5_0001));
        assert_eq!(last_list(&elsewhere)[0], (Known::Unknown, 0));
        let cleared = format!("{direct}{}", dynamic(0x6_0000, 0));
        assert_eq!(last_list(&cleared)[0], (Known::Unknown, 0), "no rights at the end say nothing of those before");
        let put = "spapr_iommu_pci_put liobn=0x80000001 ioba=0x800000000000000 tce=0x90003 ret=0\n";
        assert_eq!(last_list(&format!("{direct}{put}"))[0], (Known::Unknown, 0));
    }

    #[test]
    fn the_default_window_is_never_direct() {
        assert_eq!(last_list(&indirect(0x8000_0000, 0x1000, 1, 0x2003)), [(Known::Unknown, 0), (Known::Last, 0x2003)]);
    }

    #[test]
    fn what_a_translation_shows_is_known_and_what_lies_between_continues_it() {
        let list = indirect(0x8000_0000, 0x1000, 3, 0x5_3003);
        let known = [(Known::Seen, 0x5_0003), (Known::Run, 0x5_1003), (Known::Run, 0x5_2003), (Known::Last, 0x5_3003)];
        assert_eq!(last_list(&format!("{list}{}", translate(0x1234, 0x5_0000))), known);
        let scattered = last_list(&format!("{list}{}", translate(0x1234, 0x6_0000)));
        assert_eq!(scattered[..2], [(Known::Seen, 0x6_0003), (Known::Unknown, 0)]);
    }

    #[test]
    fn a_hypercall_shows_an_entry_too() {
        let get = "spapr_iommu_pci_get liobn=0x80000000 ioba=0x1000 ret=0 tce=0x77001\n";
        let list = indirect(0x8000_0000, 0x1000, 1, 0x5_3003);
        assert_eq!(last_list(&format!("{list}{get}"))[0], (Known::Seen, 0x7_7001));
    }

    #[test]
    fn what_is_written_in_between_shows_nothing() {
        let list = indirect(0x8000_0000, 0x1000, 1, 0x5_1003);
        let sight = translate(0x1000, 0x5_0000);
        for write in [
            "spapr_iommu_pci_put liobn=0x80000000 ioba=0x1000 tce=0x50003 ret=0\n",
            "spapr_iommu_pci_stuff liobn=0x80000000 ioba=0x2000 tcevalue=0x0 npages=1 ret=0\n",
            "spapr_iommu_pci_stuff liobn=0x80000000 ioba=0x40000000 tcevalue=0x0 npages=262144 ret=-4\n",
        ] {
            assert_eq!(last_list(&format!("{list}{write}{sight}"))[0], (Known::Unknown, 0), "{write}");
        }
        let beside = "spapr_iommu_pci_stuff liobn=0x80000000 ioba=0x1000 tcevalue=0x0 npages=1 ret=0\n";
        assert_eq!(last_list(&format!("{list}{beside}{sight}"))[0], (Known::Seen, 0x5_0003));
    }

    #[test]
    fn the_first_sight_is_the_proof_and_the_others_are_compared() {
        let list = indirect(0x8000_0000, 0x1000, 1, 0x5_1003);
        let text = format!("{list}{}{}", translate(0x1000, 0x6_0000), translate(0x1008, 0x7_0000));
        let timeline = timeline(&text);
        let proofs = Proofs::new(&timeline);
        assert_eq!(proofs.entries(&timeline, 0).unwrap()[0].tce, 0x6_0003);
        assert!(proofs.is_used_as_proof(1) && !proofs.is_used_as_proof(2));
    }
}
