//! A plan for people and programs, and what a running host lacks for it. Sizes are bytes.

use super::host::Live;
use super::{PlanHost, Wanted};
use crate::machine::HostNote;
use core::fmt;
use serde::{Serialize, Serializer};
use spapr_iommu::addr::{Amount, PageShift};
use spapr_iommu::window::PlanError;

/// A plan, its alternatives, and what prevents it on this host.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct PlanDocument {
    /// The host.
    pub host: HostNote,
    /// `powernv` or `pseries`.
    pub platform: String,
    /// The host kernel's page.
    pub host_page: u64,
    /// What is planned for.
    pub wanted: WantedRow,
    /// The library's choice; `None` if it refuses.
    pub chosen: Option<Estimate>,
    /// Why it refuses.
    pub refused: Option<Refused>,
    /// Alternatives, including the chosen one.
    pub alternatives: Vec<Alternative>,
    /// Resources of which this host has too little.
    pub notes: Vec<Note>,
}

/// The request of a plan.
#[derive(Clone, Debug, Serialize)]
pub struct WantedRow {
    memory: u64,
    max_memory: u64,
    backing: u64,
    devices: Vec<u32>,
    guest_pages: Vec<u64>,
    accelerated: bool,
}

impl fmt::Display for WantedRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of memory in pages of {}", Amount(self.memory), Amount(self.backing))?;
        if self.max_memory != self.memory {
            write!(f, ", {} with everything plugged in", Amount(self.max_memory))?;
        }
        let masks: Vec<_> = self.devices.iter().map(u32::to_string).collect();
        let of_guest = if self.guest_pages.is_empty() { "" } else { ", filled by a pseries guest" };
        match self.devices.len() {
            1 => write!(f, "; a device with {} address bits{of_guest}.", masks.concat()),
            count => write!(f, "; {count} devices with {} address bits{of_guest}.", masks.join(", ")),
        }
    }
}

impl WantedRow {
    pub(super) fn new(wanted: &Wanted, host: &PlanHost) -> Self {
        Self {
            memory: wanted.memory,
            max_memory: wanted.max_memory,
            backing: wanted.backing(host).bytes(),
            devices: wanted.devices.clone(),
            guest_pages: wanted.guest_pages.iter().map(|page| page.bytes()).collect(),
            accelerated: wanted.accelerated,
        }
    }
}

/// One way to get the windows, with its cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// Number of containers; each has all the windows.
    pub containers: u32,
    /// The windows, the default one first.
    pub windows: Vec<WindowRow>,
    /// Locked memory.
    pub locked: Locked,
    /// Calls to the kernel, over all containers, for the memory at the start.
    pub ioctls: Ioctls,
    /// Hypercalls, of the guest and of the host's kernel.
    pub hypercalls: Hypercalls,
    /// What the kernel does to remove the windows, over all containers.
    pub teardown: Teardown,
}

impl Estimate {
    /// Returns whether the other one leads to the same windows in as many containers.
    pub(super) fn same_windows(&self, other: &Self) -> bool {
        let windows = |estimate: &Self| -> Vec<_> {
            estimate.windows.iter().map(|w| (w.start, w.size, w.page, w.levels, w.guest_page)).collect()
        };
        (self.containers, windows(self)) == (other.containers, windows(other))
    }
}

/// A window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WindowRow {
    /// `default` or `dynamic`.
    pub name: &'static str,
    /// Start; `None` if the firmware chooses.
    #[serde(serialize_with = "address")]
    pub start: Option<u64>,
    /// Its bytes.
    pub size: u64,
    /// IOMMU page.
    pub page: u64,
    /// Page of the guest's table; `None` without a guest.
    pub guest_page: Option<u64>,
    /// Levels of the TCE table.
    pub levels: u32,
    /// Number of TCEs.
    pub tces: u64,
    /// Locked memory of its table, in each container.
    pub table: u64,
    /// Bytes mapped in it at the start.
    pub mapped: u64,
    /// Reasons for the choices.
    pub reasons: Vec<String>,
}

fn address<S: Serializer>(address: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
    address.map(|address| format!("{address:#x}")).serialize(serializer)
}

/// Locked memory of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Locked {
    /// Registered memory at the start.
    pub registered: u64,
    /// Registered memory with everything plugged in.
    pub registered_max: u64,
    /// TCE tables, over all containers.
    pub tables: u64,
    /// Tables of KVM.
    pub kvm: u64,
    /// Peak of additional locked memory while windows are created.
    pub creating: u64,
    /// The sum at the start.
    pub start: u64,
    /// The sum with everything plugged in.
    pub max: u64,
    /// The limit to set, in KiB: enough at any time, in any order of the calls.
    pub limit_kib: u64,
    /// What libvirt allows a guest with that much memory and one PCI host bridge, in KiB; `None`
    /// without a guest.
    pub libvirt_kib: Option<u64>,
}

/// Calls to the kernel, over all containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Ioctls {
    /// To open containers and attach groups.
    pub attach: u64,
    /// To create windows: CREATE, REMOVE, and an UNMAP that creates the default window.
    pub windows: u64,
    /// REGISTER.
    pub register: u64,
    /// MAP.
    pub map: u64,
    /// UNMAP at the end.
    pub unmap: u64,
    /// UNREGISTER.
    pub unregister: u64,
    /// The sum.
    pub all: u64,
}

/// Hypercalls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Hypercalls {
    /// `H_PUT_TCE_INDIRECT` of a guest that maps all its memory in the dynamic window.
    pub guest_map: u64,
    /// Made by the host's kernel to map, on pseries.
    pub host_map: u64,
    /// Made by the host's kernel to unmap, on pseries.
    pub host_unmap: u64,
}

/// Cost of removing windows, however empty they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Teardown {
    /// Entries that the kernel visits one by one.
    pub entries: u64,
    /// Hypercalls of the host's kernel.
    pub hypercalls: u64,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Refused {
    /// Stable name of the cause.
    pub code: &'static str,
    /// The cause, and what to do.
    pub message: String,
}

impl Refused {
    pub(super) fn new(error: &PlanError) -> Self {
        Self { code: error.code(), message: error.to_string() }
    }
}

/// An alternative.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Alternative {
    /// How it differs.
    pub name: String,
    /// Whether the library chooses it by default.
    pub chosen: bool,
    /// Its cost; `None` if it is impossible.
    pub estimate: Option<Estimate>,
    /// Why it is impossible.
    pub refused: Option<Refused>,
}

impl Alternative {
    pub(super) fn new(name: String, estimate: Result<Estimate, PlanError>) -> Self {
        let (estimate, refused) = match estimate {
            Ok(estimate) => (Some(estimate), None),
            Err(error) => (None, Some(Refused::new(&error))),
        };
        Self { name, chosen: false, estimate, refused }
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
