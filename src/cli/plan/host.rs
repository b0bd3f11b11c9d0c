//! The host of a plan: answers of a model or of the running kernel, and what a running host lacks.

use crate::doctor::{Place, usable, window_info};
use crate::machine::{HostNote, Machine};
use crate::plan::{Estimate, Wanted};
use serde::Serialize;
use spapr_iommu::addr::{Amount, PageShift};
use spapr_iommu::host::{Host, Memlock, Node, Obstacle};
use spapr_iommu::model::Preset;
use spapr_iommu::pci::Group;
use spapr_iommu::window::WindowFacts;

/// Facts of a host.
#[derive(Clone, Debug)]
pub struct PlanHost {
    /// Its name and kernel.
    pub(super) note: HostNote,
    /// Description in one line.
    pub(crate) described: String,
    pub(super) facts: WindowFacts,
    /// Sizes of its huge pages.
    pub(super) huge_pages: Vec<PageShift>,
    /// The state of a running machine; `None` for a model.
    pub(super) live: Option<Live>,
}

/// The state of a running machine.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// Bytes that are available; `None` if unknown.
    pub(super) available: Option<u64>,
    /// Limit of locked memory; `None` if unknown.
    pub(super) memlock: Option<Memlock>,
    /// Number of groups that can be used now.
    pub(super) groups: usize,
    /// Free huge pages: bytes of each, and their number.
    pub(super) free_huge_pages: Vec<(u64, u64)>,
}

/// Why a host's facts are unknown.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// An obstacle that the user can remove.
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    /// The kernel is asked through a group.
    #[error("no IOMMU group is usable, through which the kernel could be asked: `spapr-iommu doctor` says why")]
    NoGroup,
    /// The kernel did not answer.
    #[error("the kernel does not say which windows it has: {0}")]
    NoAnswer(String),
}

impl PlanHost {
    /// Returns the facts of a model of `preset`.
    pub fn model(preset: Preset) -> Self {
        let machine = Machine::model(preset, 1);
        let host = machine.host();
        // A model answers all of these calls.
        let info = window_info(&host, Node::Group(Group(0))).unwrap_or_default();
        Self {
            note: machine.note(&[]),
            described: machine.describe(),
            facts: WindowFacts::new(preset.platform(), preset.page.shift(), &info),
            huge_pages: preset.huge_pages().to_vec(),
            live: None,
        }
    }

    /// Asks the running kernel, through a group that is not in use. This changes nothing.
    pub fn running() -> Result<Self, HostError> {
        let machine = Machine::vfio();
        let (host, place) = (machine.host(), Place::new(None));
        let Some(platform) = host.platform() else {
            return Err(Obstacle::NotPower { arch: std::env::consts::ARCH.into() }.into());
        };
        let groups = usable(&place);
        let Some(first) = groups.first() else {
            return Err(host.obstacle(Node::Container).map_or(HostError::NoGroup, HostError::Obstacle));
        };
        let info = window_info(&host, Node::Group(first.number)).map_err(HostError::NoAnswer)?;
        let huge = place.huge_pages();
        Ok(Self {
            note: machine.note(&groups),
            described: machine.describe(),
            facts: WindowFacts::new(platform, host.page_shift(), &info),
            huge_pages: huge.iter().filter_map(|(bytes, ..)| PageShift::from_bytes(*bytes)).collect(),
            live: Some(Live {
                available: host.available_memory(),
                memlock: host.memlock().ok(),
                groups: groups.len(),
                free_huge_pages: huge.iter().map(|(bytes, _, free)| (*bytes, *free)).collect(),
            }),
        })
    }
}

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
pub(super) fn notes(host: &PlanHost, wanted: &Wanted, estimate: Option<&Estimate>) -> Vec<Note> {
    let Some(live) = &host.live else { return Vec::new() };
    let mut notes = vec![groups(live, wanted)];
    notes.extend(huge_pages(live, wanted, host.facts.host_page));
    notes.extend(estimate.and_then(|estimate| memlock(live, estimate)));
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

fn memlock(live: &Live, estimate: &Estimate) -> Option<Note> {
    let memlock = live.memlock?;
    let more = estimate.locked.limit_kib << 10;
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
