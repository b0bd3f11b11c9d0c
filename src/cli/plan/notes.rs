//! Resources of which a running host has too little for a plan.

use super::host::Live;
use super::{Course, PlanHost, Wanted};
use serde::Serialize;
use spapr_iommu::addr::{Amount, PageShift};

/// Severity of a note.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
#[non_exhaustive]
pub enum NoteLevel {
    /// There is enough.
    Ok,
    /// The plan cannot be carried out now.
    Wrong,
}

/// A resource of a running host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Note {
    /// Severity.
    pub level: NoteLevel,
    /// A stable name.
    pub code: &'static str,
    /// What is available.
    pub text: String,
    /// Remedy.
    pub remedy: Option<String>,
}

impl Note {
    fn new(code: &'static str, text: String, remedy: Option<String>) -> Self {
        let level = if remedy.is_some() { NoteLevel::Wrong } else { NoteLevel::Ok };
        Self { level, code, text, remedy }
    }
}

/// Compares a plan with a running host; a model has enough of everything.
pub(super) fn notes(host: &PlanHost, wanted: &Wanted, course: Option<&Course>) -> Vec<Note> {
    let Some(live) = &host.live else { return Vec::new() };
    let mut notes = vec![groups(live, wanted)];
    notes.extend(huge_pages(live, wanted, host.facts.host_page));
    notes.extend(course.and_then(|course| memlock(live, course)));
    notes
}

fn groups(live: &Live, wanted: &Wanted) -> Note {
    let (there, needed) = (live.groups, wanted.devices.len());
    let text = format!("usable IOMMU groups: {there} of {needed}");
    let remedy = (there < needed).then(|| "`spapr-iommu bind ADDRESS --group`, for each device".to_owned());
    Note::new("groups", text, remedy)
}

fn huge_pages(live: &Live, wanted: &Wanted, host_page: PageShift) -> Option<Note> {
    let page = wanted.backing.filter(|page| *page > host_page)?;
    let needed = wanted.memory >> page.get();
    let free = live.free_huge_pages.iter().find(|(bytes, _)| *bytes == page.bytes()).map_or(0, |(_, free)| *free);
    let file = format!("/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages", page.bytes() >> 10);
    let remedy = (free < needed).then(|| format!("`echo {needed} > {file}` as root"));
    Some(Note::new("huge-pages", format!("free pages of {page}: {free} of {needed}"), remedy))
}

fn memlock(live: &Live, course: &Course) -> Option<Note> {
    let memlock = live.memlock?;
    let more = course.locked.limit_kib << 10;
    let missing = memlock.missing(more);
    let kilobytes = memlock.locked.saturating_add(more).div_ceil(1024);
    let remedy =
        (missing != 0).then(|| format!("`ulimit -l {kilobytes}` as root, or LimitMEMLOCK={kilobytes}K of the service"));
    let text = match missing {
        0 => format!("this process: {memlock}"),
        _ => format!("this process: {memlock}: {} too little", Amount(missing)),
    };
    Some(Note::new("memlock", text, remedy))
}
