//! The report of a run, for people and programs. Except for `host`, nothing in it depends on time
//! or on memory addresses: the same scenario gives the same report on every host of one kind.

use crate::machine::HostNote;
use serde::Serialize;

/// The result of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The scenario's title.
    pub title: String,
    /// `powernv` or `pseries`.
    pub platform: Option<String>,
    /// The host kernel's page, bytes.
    pub page: u64,
    /// The steps that were run.
    pub steps: Vec<StepReport>,
    /// The state after the last step.
    pub tables: Tables,
    /// What was left after everything was released.
    pub end: End,
    /// Whether everything was as expected.
    pub passed: bool,
    /// Whether the observer ended the run before the last step.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub interrupted: bool,
    /// The host. Leave it out to compare hosts.
    pub host: HostNote,
    /// Whether the steps were raw: then the tables are empty, and what was left at the end is
    /// reported but not judged.
    #[serde(skip)]
    pub raw: bool,
}

/// The result of a step.
#[derive(Clone, Debug, Serialize)]
pub struct StepReport {
    /// Number of the step, from 1.
    pub number: usize,
    /// Line in the file.
    pub line: usize,
    /// Name in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Note in the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The action's key.
    pub action: &'static str,
    /// The action's arguments in one line.
    pub arguments: String,
    /// `ok`, or the code of the expected error.
    pub expected: String,
    /// `ok`, or the code of the error.
    pub outcome: String,
    /// What was done, or the error's message.
    pub message: String,
    /// Whether the outcome differs from the expectation.
    pub surprise: bool,
    /// Whether the error is an obstacle the user must remove, rather than a refusal.
    #[serde(skip)]
    pub obstacle: bool,
    /// The plan, for the action `plan`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanReport>,
    /// The state, for the action `show`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tables: Option<Tables>,
}

/// A plan of a window.
#[derive(Clone, Debug, Serialize)]
pub struct PlanReport {
    /// The calls, for each container.
    pub calls: Vec<String>,
    /// Start of the window, if that is known in advance.
    pub start: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// IOMMU page, bytes.
    pub page: u64,
    /// Levels of the table.
    pub levels: u32,
    /// Locked memory it is charged, bytes.
    pub locked: u64,
    /// Number of calls, over all containers.
    pub ioctls: u32,
    /// Number of entries visited when it is removed.
    pub teardown_entries: u64,
    /// Number of hypercalls when it is removed.
    pub teardown_hypercalls: u64,
    /// Reasons for the choices.
    pub reasons: Vec<String>,
}

/// The state at one moment.
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
    /// Mappings.
    pub maps: Vec<MapRow>,
    /// Locked memory.
    pub locked: Locked,
}

/// A kernel region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RegionRow {
    /// Location, as `ram+0x1000`.
    pub memory: String,
    /// Size in bytes.
    pub size: u64,
    /// The largest IOMMU page it can serve, bytes.
    pub max_iommu_page: u64,
    /// Number of leases that touch it.
    pub leases: u32,
    /// Bytes of bus addresses that lead into it.
    pub mapped: u64,
    /// Number of containers it is registered in.
    pub containers: usize,
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseRow {
    /// Its name, if it has one.
    pub lease: Option<String>,
    /// Location, as `ram+0x1000`.
    pub memory: String,
    /// Size in bytes.
    pub size: u64,
}

/// An attached group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GroupRow {
    /// Name of the space.
    pub space: String,
    /// The group, as the scenario numbers it.
    pub group: usize,
    /// Number of its container in the space, from 0.
    pub container: usize,
}

/// A window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WindowRow {
    /// Name of the space.
    pub space: String,
    /// Name in the scenario.
    pub name: Option<String>,
    /// First bus address.
    pub start: String,
    /// Size in bytes.
    pub size: u64,
    /// IOMMU page, bytes.
    pub page: u64,
    /// Levels of its table; `None` while it waits for its first use.
    pub levels: Option<u32>,
    /// `default`, `asked` or `demand`.
    pub origin: String,
    /// Bytes mapped.
    pub mapped: u64,
}

/// A mapped stretch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapRow {
    /// Name of the space.
    pub space: String,
    /// First bus address.
    pub iova: String,
    /// Size in bytes.
    pub size: u64,
    /// Location of the memory it leads to.
    pub memory: String,
    /// What devices may do with it.
    pub access: String,
}

/// Locked memory since the scenario began, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Locked {
    /// All locked memory.
    pub total: u64,
    /// Locked for registered memory.
    pub registered: u64,
    /// Locked for TCE tables and everything else.
    pub tables: u64,
}

/// What was left after everything was released.
#[derive(Clone, Debug, Default, Serialize)]
pub struct End {
    /// Locked bytes that were not locked at the start.
    pub locked: u64,
    /// Damage to the kernel that a model saw.
    pub damage: Vec<String>,
}

impl End {
    /// Returns whether nothing was left.
    pub fn is_clean(&self) -> bool {
        self.locked == 0 && self.damage.is_empty()
    }
}

impl Report {
    /// Returns the first step whose result was not as expected.
    pub fn surprise(&self) -> Option<&StepReport> {
        self.steps.iter().find(|step| step.surprise)
    }
}

impl StepReport {
    /// Describes the expectation and the result.
    pub fn difference(&self) -> String {
        let message = if self.message.is_empty() { String::new() } else { format!(": {}", self.message) };
        format!("expected {}, got {}{message}", self.expected, self.outcome)
    }
}
