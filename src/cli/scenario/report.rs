//! What came of a run, for people and programs. Nothing in it depends on the moment or on where memory lay, but for
//! `host`: the same scenario gives the same report on every host of one kind.

use serde::Serialize;

/// What came of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's title.
    pub title: String,
    /// `powernv` or `pseries`.
    pub platform: Option<String>,
    /// The host kernel's page, bytes.
    pub page: u64,
    /// The steps that were done.
    pub steps: Vec<StepReport>,
    /// What there was after the last step.
    pub tables: Tables,
    /// What was left when everything had been given back.
    pub end: End,
    /// Whether all was as expected.
    pub passed: bool,
    /// Which host it was. Leave it out to compare hosts.
    pub host: HostNote,
    /// The steps were bare: the tables are empty, and what was left in the end is told, not judged.
    #[serde(skip)]
    pub bare: bool,
}

/// Which host it was.
#[derive(Clone, Debug, Serialize)]
pub struct HostNote {
    /// `model` or `vfio`.
    pub kind: &'static str,
    /// The preset, or the machine's name.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// Numbers of the groups that the scenario counts from 0.
    pub groups: Vec<u32>,
}

/// What came of a step.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Counted from 1.
    pub number: usize,
    /// Where it stands in the file.
    pub line: usize,
    /// What the file calls it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What the file says of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The action's key.
    pub action: &'static str,
    /// Its arguments in one line.
    pub arguments: String,
    /// `ok`, or the code of the expected error.
    pub expected: String,
    /// `ok`, or the code of the error.
    pub outcome: String,
    /// What was done, or the error's message.
    pub message: String,
    /// Whether outcome and expectation differ.
    pub surprise: bool,
    /// An obstacle the user has to remove, rather than a refusal.
    #[serde(skip)]
    pub obstacle: bool,
    /// What a plan says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanReport>,
    /// What `show` shows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables: Option<Tables>,
}

/// A plan of a window.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    /// The calls, for each container.
    pub calls: Vec<String>,
    /// Where the window starts, if that is known before.
    pub start: Option<String>,
    /// Bytes.
    pub size: u64,
    /// Its page, bytes.
    pub page: u64,
    /// Levels of the table.
    pub levels: u32,
    /// Locked memory it is charged with, bytes.
    pub locked: u64,
    /// Calls over all containers.
    pub ioctls: u32,
    /// Entries that are visited when it is removed.
    pub teardown_entries: u64,
    /// Hypercalls when it is removed.
    pub teardown_hypercalls: u64,
    /// Why.
    pub reasons: Vec<String>,
}

/// What there is at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tables {
    /// Kernel regions.
    pub registered: Vec<RegionRow>,
    /// Leases.
    pub leases: Vec<LeaseRow>,
    /// Groups and their containers.
    pub groups: Vec<GroupRow>,
    /// Windows.
    pub windows: Vec<WindowRow>,
    /// What is mapped.
    pub maps: Vec<MapRow>,
    /// Locked memory.
    pub locked: Locked,
}

/// A kernel region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegionRow {
    /// Where, `ram+0x1000`.
    pub memory: String,
    /// Bytes.
    pub size: u64,
    /// The largest IOMMU page it carries, bytes.
    pub carries: u64,
    /// Leases that touch it.
    pub leases: u32,
    /// Bytes of bus addresses that lead into it.
    pub mapped: u64,
    /// Containers it is registered in.
    pub containers: usize,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseRow {
    /// Its name, if it has one.
    pub lease: Option<String>,
    /// Where.
    pub memory: String,
    /// Bytes.
    pub size: u64,
}

/// An attached group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupRow {
    /// The space.
    pub space: String,
    /// The group, as the scenario counts.
    pub group: usize,
    /// Its container, counted in the space from 0.
    pub container: usize,
}

/// A window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WindowRow {
    /// The space.
    pub space: String,
    /// What the scenario calls it.
    pub name: Option<String>,
    /// First bus address.
    pub start: String,
    /// Bytes.
    pub size: u64,
    /// Its page, bytes.
    pub page: u64,
    /// Levels of its table; none while it waits for its first use.
    pub levels: Option<u32>,
    /// `default`, `asked` or `demand`.
    pub origin: String,
    /// Bytes mapped.
    pub mapped: u64,
}

/// A stretch that is mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapRow {
    /// The space.
    pub space: String,
    /// First bus address.
    pub iova: String,
    /// Bytes.
    pub size: u64,
    /// Where it leads.
    pub memory: String,
    /// What devices may do.
    pub access: String,
}

/// Locked memory since the scenario began, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Locked {
    /// All of it.
    pub total: u64,
    /// For registered memory.
    pub registered: u64,
    /// For TCE tables and whatever else.
    pub tables: u64,
}

/// What was left when everything had been given back.
#[derive(Clone, Debug, Default, Serialize)]
pub struct End {
    /// Locked bytes that were not there at the start.
    pub locked: u64,
    /// What a model saw go wrong in the kernel.
    pub damage: Vec<String>,
}

impl End {
    /// Whether nothing was left.
    pub fn is_clean(&self) -> bool {
        self.locked == 0 && self.damage.is_empty()
    }
}

impl Report {
    /// The first step that came to something else than expected.
    pub fn surprise(&self) -> Option<&StepReport> {
        self.steps.iter().find(|step| step.surprise)
    }
}

impl StepReport {
    /// What was expected, and what it came to.
    pub fn difference(&self) -> String {
        let message = if self.message.is_empty() { String::new() } else { format!(": {}", self.message) };
        format!("expected {}, got {}{message}", self.expected, self.outcome)
    }
}
