//! The machine on which the drivers run, and what they leave: locked memory, open files, free
//! memory.

use libtest_mimic::Failed;
use ppc64_init::memory::settled_free_kib;
use spapr_iommu::dma::{Dma, DmaConfig};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::host::{GroupFacts, Host, Node, Obstacle};
use spapr_iommu::model::Model;
use spapr_iommu::registry::Registry;
use spapr_iommu_tests::machine;
use std::fs;
use std::sync::Arc;

/// The models that stand in for it.
pub(crate) const PRESETS: [&str; 4] = ["powernv9-4k", "powernv9-64k", "pseries-4k", "pseries-64k"];
/// Size of the dynamic window of a driver whose device needs little.
const SMALL: u64 = 16 << 20;

pub(crate) struct Fixture {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) model: Option<Arc<Model>>,
    pub(crate) rounds: u32,
    registry: Registry,
}

impl Fixture {
    /// Returns the running kernel, on a POWER machine.
    pub(crate) fn running(rounds: u32) -> Option<Self> {
        let host = Arc::new(Vfio::new());
        let power = !matches!(host.obstacle(Node::Container), Some(Obstacle::NotPower { .. }));
        let registry = Registry::new(host.clone());
        power.then(|| Self { registry, host, model: None, rounds })
    }

    pub(crate) fn model(preset: &str, rounds: u32) -> Self {
        let model = Arc::new(Model::new(preset.parse().unwrap()).panic_on_violation());
        let registry = Registry::new(model.clone());
        Self { registry, host: model.clone(), model: Some(model), rounds }
    }

    /// Linux needs `ibm,ddw-applicable` even for the default window.
    pub(crate) fn has_windows(&self) -> bool {
        let bridges = std::fs::read_dir("/proc/device-tree").into_iter().flatten().flatten();
        let mut bridges = bridges.map(|node| node.path()).filter(|path| path.join("ibm,dma-window").exists());
        self.model.is_some() || bridges.all(|bridge| bridge.join("ibm,ddw-applicable").exists())
    }

    /// Returns memory for devices, with both windows.
    pub(crate) fn dma(&self) -> Dma {
        Dma::with_registry(&self.registry, DmaConfig::default())
    }

    /// With only the dynamic window, and a small one: quick to create and remove.
    pub(crate) fn small_dma(&self) -> Dma {
        let config = DmaConfig::default().with_capacity(SMALL).without_default_window();
        Dma::with_registry(&self.registry, config)
    }

    fn groups(&self) -> Vec<GroupFacts> {
        machine::groups(self.host.as_ref())
    }

    /// Returns the addresses of all devices with an ID.
    pub(crate) fn devices(&self, id: (u16, u16)) -> Vec<String> {
        let devices = self.groups().into_iter().flat_map(|group| group.devices);
        devices.filter(|device| device.id == id).map(|device| device.address).collect()
    }

    /// Returns the first of them.
    pub(crate) fn device(&self, id: (u16, u16)) -> Result<String, Failed> {
        let none = || format!("no device {:04x}:{:04x} is bound to vfio-pci", id.0, id.1);
        Ok(self.devices(id).into_iter().next().ok_or_else(none)?)
    }

    /// Keeps the kernel from resetting a device when it is opened, until the result is dropped: the
    /// bus of an emulated powernv takes seconds for that. One reset per round remains.
    pub(crate) fn without_reset(&self, address: &str) -> Result<Option<NoReset>, Failed> {
        if self.model.is_some() {
            return Ok(None);
        }
        let file = format!("/sys/bus/pci/devices/{address}/reset_method");
        match std::fs::read_to_string(&file) {
            // There is none anyway.
            Err(_) => Ok(None),
            Ok(_) => {
                std::fs::write(&file, "\n")?;
                Ok(Some(NoReset(file)))
            }
        }
    }

    /// Prints progress now and then.
    pub(crate) fn progress(&self, what: &str, round: u32) {
        if self.rounds > 100 && round.is_multiple_of(100) {
            eprintln!("{what}: {round} of {} rounds", self.rounds);
        }
    }
}

pub(crate) struct NoReset(String);

impl Drop for NoReset {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.0, "default\n") {
            eprintln!("{}: {error}", self.0);
        }
    }
}

/// Tolerance of free memory in KiB: a leak in each round would be at least a page in each, which is
/// 64 KiB on most machines.
const NOISE_KIB: u64 = 1024;

#[derive(Debug, PartialEq)]
pub(crate) struct Left {
    locked: u64,
    files: usize,
    /// Of the machine; a model has none.
    free_kib: Option<u64>,
}

impl Left {
    pub(crate) fn now(fixture: &Fixture) -> Result<Self, Failed> {
        let free_kib = match fixture.model {
            Some(_) => None,
            None => Some(settled_free_kib()?),
        };
        let files = fs::read_dir("/proc/self/fd")?.count();
        Ok(Self { locked: fixture.host.memlock()?.locked, files, free_kib })
    }

    /// Fails unless everything is as it was.
    pub(crate) fn same_as(&self, before: &Self) -> Result<(), Failed> {
        let lost = before.free_kib.unwrap_or(0).saturating_sub(self.free_kib.unwrap_or(0));
        if (self.locked, self.files) == (before.locked, before.files) && lost <= NOISE_KIB {
            return Ok(());
        }
        Err(format!("{self:?} is left where {before:?} was").into())
    }
}
