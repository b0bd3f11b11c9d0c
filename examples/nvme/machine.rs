//! The machine on which a program works: the running kernel, or a model of one with devices.

use spapr_iommu::host::Host;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::model::Model;
use std::error::Error;
use std::sync::Arc;

/// Preset of the model on a machine that is not POWER.
const DEFAULT: &str = "powernv9-64k";

/// Creates the model of a preset, with the program's devices.
type Make = fn(&str) -> Result<Model, Box<dyn Error>>;

/// A host, and whether it is a model.
pub(crate) struct Machine {
    pub(crate) host: Arc<dyn Host>,
    pub(crate) is_model: bool,
}

impl Machine {
    /// Returns the host that the option names, `vfio` or `model:PRESET`; without it the running
    /// kernel on POWER, otherwise a model.
    pub(crate) fn new(option: Option<&str>, model: Make) -> Result<Self, Box<dyn Error>> {
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
