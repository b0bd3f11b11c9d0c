//! The machine that scenarios and traces run on.

use serde::Serialize;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{GroupFacts, Host, Memory, Node, Obstacle};
use spapr_iommu::model::{Leak, Model, Preset, Violation};
use std::sync::Arc;

/// A host with memory to use, and access to its kernel's state.
#[derive(Clone, Debug)]
pub enum Machine {
    /// The kernel in process.
    Model {
        /// The model.
        model: Arc<Model>,
        /// Preset of the model.
        preset: Preset,
        /// The host that calls go to: the model, or a wrapper around it.
        host: Arc<dyn Host>,
    },
    /// The running kernel.
    Vfio(Arc<Vfio>),
}

/// The host that a scenario or a trace ran on.
#[derive(Clone, Debug, Serialize)]
pub struct HostNote {
    /// `model` or `vfio`.
    pub kind: &'static str,
    /// The preset, or the machine's name.
    pub name: String,
    /// The kernel's release.
    pub kernel: String,
    /// Numbers of the groups that the scenario numbers from 0.
    pub groups: Vec<u32>,
}

/// Why a scenario or a trace cannot run here at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the message names each field")]
pub enum NotHere {
    /// An obstacle that the user can remove.
    #[error(transparent)]
    Obstacle(#[from] Obstacle),
    /// The host has too few groups.
    #[error(
        "{needed} IOMMU groups with a device bound to vfio-pci are needed, this host has {present}: bind more \
         devices (`driverctl set-override ADDRESS vfio-pci`)"
    )]
    Groups { needed: usize, present: usize },
}

impl Machine {
    /// Creates a model of `preset` with at least `groups` groups.
    pub fn model(preset: Preset, groups: usize) -> Self {
        Self::wrapped(preset, groups, |model| model)
    }

    /// Creates a model with a wrapper around its host, for tests.
    pub fn wrapped<H: Host + 'static>(preset: Preset, groups: usize, wrap: impl FnOnce(Arc<Model>) -> Arc<H>) -> Self {
        let groups = u32::try_from(groups).unwrap_or(u32::MAX);
        // Scenarios are compared with emulated machines, whose PHBs freeze nothing.
        let model = Arc::new(Model::new(preset).without_freezing().with_groups(groups.max(2)));
        Self::Model { model: Arc::clone(&model), preset, host: wrap(model) }
    }

    /// Creates the running kernel.
    pub fn vfio() -> Self {
        Self::Vfio(Arc::default())
    }

    /// Describes the host in a few words.
    pub fn describe(&self) -> String {
        let note = self.note(&[]);
        let (host, platform) = (self.host(), self.host().platform());
        let platform = platform.map_or("not a POWER machine".into(), |platform| platform.to_string());
        format!("{} {}, {platform}, Linux {}, {} pages", note.kind, note.name, note.kernel, host.page_shift())
    }

    pub(crate) fn host(&self) -> Arc<dyn Host> {
        match self {
            Self::Model { host, .. } => Arc::clone(host),
            Self::Vfio(vfio) => Arc::clone(vfio) as Arc<dyn Host>,
        }
    }

    pub(crate) fn memory(&self) -> &dyn Memory {
        match self {
            Self::Model { model, .. } => model.as_ref(),
            Self::Vfio(vfio) => vfio.as_ref(),
        }
    }

    /// Returns the same memory as an owned handle.
    pub(crate) fn shared_memory(&self) -> Arc<dyn Memory + Send + Sync> {
        match self {
            Self::Model { model, .. } => Arc::clone(model) as Arc<dyn Memory + Send + Sync>,
            Self::Vfio(vfio) => Arc::clone(vfio) as Arc<dyn Memory + Send + Sync>,
        }
    }

    /// Returns the locked bytes of the process, or of the model's process.
    pub(crate) fn locked(&self) -> u64 {
        self.host().memlock().map_or(0, |memlock| memlock.locked)
    }

    /// Returns the groups that user space can have, in order: a scenario numbers them from 0.
    pub(crate) fn groups(&self, needed: usize) -> Result<Vec<GroupFacts>, NotHere> {
        let host = self.host();
        let is_ours = |group: &GroupFacts| group.devices.iter().any(|device| is_vfio(device.driver.as_deref()));
        let groups: Vec<_> = host.groups().into_iter().filter(is_ours).collect();
        if groups.len() >= needed {
            return Ok(groups);
        }
        match host.obstacle(Node::Container) {
            Some(obstacle) => Err(obstacle.into()),
            None => Err(NotHere::Groups { needed, present: groups.len() }),
        }
    }

    /// Returns damage to the kernel after everything was released. Only a model can report it.
    pub(crate) fn damage(&self) -> Vec<String> {
        let violations = self.violations();
        let Self::Model { model, .. } = self else { return violations };
        let leaks = model.leaks().into_iter().map(|leak| match leak {
            Leak::Region(range) => format!("leak: {range} stays pinned"),
            Leak::Locked(bytes) => format!("leak: {bytes} bytes stay locked"),
        });
        violations.into_iter().chain(leaks).collect()
    }

    /// Returns the calls that would have harmed a kernel. Only a model can report them.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations_after(0)
    }

    /// Returns those after the first `count`.
    pub(crate) fn violations_after(&self, count: usize) -> Vec<String> {
        let Self::Model { model, .. } = self else { return Vec::new() };
        let new = model.violations().into_iter().filter(Violation::harms_kernel).skip(count);
        new.map(|violation| format!("violation: {violation}")).collect()
    }

    pub(crate) fn note(&self, groups: &[GroupFacts]) -> HostNote {
        let groups = groups.iter().map(|group| group.number.0).collect();
        match self {
            Self::Model { preset, .. } => {
                let kernel = preset.kernel.to_string();
                HostNote { kind: "model", name: preset.to_string(), kernel, groups }
            }
            Self::Vfio(_) => {
                let uname = nix::sys::utsname::uname().ok();
                let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
                let name = uname.as_ref().map(|uname| text(uname.nodename())).unwrap_or_default();
                let kernel = uname.as_ref().map(|uname| text(uname.release())).unwrap_or_default();
                HostNote { kind: "vfio", name, kernel, groups }
            }
        }
    }
}

/// Returns whether a driver gives its device to user space.
pub(crate) fn is_vfio(driver: Option<&str>) -> bool {
    driver == Some("vfio-pci")
}
