//! The model that the program runs on.

use spapr_iommu::Group;
use spapr_iommu::model::{E1000e, Model};
use std::error::Error;

/// A model with a controller.
pub(crate) fn with_controller(preset: &str) -> Result<Model, Box<dyn Error>> {
    Ok(Model::new(preset.parse()?).panic_on_violation().with_device(Group(0), E1000e::new())?)
}
