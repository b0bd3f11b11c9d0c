//! The machine to work on: the running kernel, or a model of one with two disks.

use spapr_iommu::Group;
use spapr_iommu::host::Host;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::model::{Model, Nvme};
use std::error::Error;
use std::sync::Arc;

/// The model on a machine that is not POWER.
const DEFAULT: &str = "powernv9-64k";
/// Bytes of each disk of a model.
const DISK: u64 = 64 << 20;

/// A host, and whether it is a model.
pub(crate) struct Machine {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) is_model: bool,
}

impl Machine {
    /// Takes what the option says: `vfio` or `model:PRESET`; without it the running kernel if the
    /// machine is POWER, else a model.
    pub(crate) fn new(option: Option<&str>) -> Result<Self, Box<dyn Error>> {
        match option {
            Some("vfio") => Ok(Self { host: Arc::new(Vfio::new()), is_model: false }),
            Some(text) => {
                let preset = text.strip_prefix("model:").ok_or("hosts are vfio and model:PRESET")?;
                Ok(Self { host: Arc::new(model(preset)?), is_model: true })
            }
            None => {
                let host = Vfio::new();
                if host.platform().is_some() {
                    return Ok(Self { host: Arc::new(host), is_model: false });
                }
                eprintln!("this machine is not POWER: on the model {DEFAULT}");
                Ok(Self { host: Arc::new(model(DEFAULT)?), is_model: true })
            }
        }
    }
}

/// A model with a disk in each of two groups.
pub(crate) fn model(preset: &str) -> Result<Model, Box<dyn Error>> {
    let disk = |serial| Nvme::new(DISK).with_serial(serial);
    let model = Model::new(preset.parse()?).panic_on_violation();
    Ok(model.with_device(Group(0), disk("disk0"))?.with_device(Group(1), disk("disk1"))?)
}
