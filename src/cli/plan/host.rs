//! The host of a plan: answers of a model or of the running kernel.

use crate::doctor::{Place, usable, window_info};
use crate::machine::{HostNote, Machine};
use spapr_iommu::addr::PageShift;
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
