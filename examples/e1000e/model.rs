//! The model on which the program runs.

use spapr_iommu::Group;
use spapr_iommu::model::{E1000e, Model};
use std::error::Error;

/// Returns a model with a controller.
pub(crate) fn with_controller(preset: &str) -> Result<Model, Box<dyn Error>> {
    Ok(Model::new(preset.parse()?).panic_on_violation().with_device(Group(0), E1000e::new())?)
}
