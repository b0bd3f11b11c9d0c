//! The model on which the program runs.

use spapr_iommu::Group;
use spapr_iommu::model::{Model, Nvme};
use std::error::Error;

/// Bytes of each disk.
const DISK: u64 = 64 << 20;

/// Returns a model with a disk in each of two groups.
pub(crate) fn with_disks(preset: &str) -> Result<Model, Box<dyn Error>> {
    let disk = |serial| Nvme::new(DISK).with_serial(serial);
    let model = Model::new(preset.parse()?).panic_on_violation();
    Ok(model.with_device(Group(0), disk("disk0"))?.with_device(Group(1), disk("disk1"))?)
}
