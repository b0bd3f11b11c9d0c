//! A driver for a device that does not exist, and a model of the device: `docs/device-model.md`
//! builds both.
//!
//! `cargo run --example adder`

mod driver;
mod model;
#[cfg(test)]
mod tests;

use driver::Adder;
use model::AdderModel;
use spapr_iommu::device::InterruptKind;
use spapr_iommu::model::Model;
use spapr_iommu::{Dma, Group, Permission};
use std::error::Error;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let model = Model::new("powernv9-64k".parse()?).with_device(Group(0), AdderModel::default())?;
    let dma = Dma::new(Arc::new(model));
    let adder = Adder::open(&dma, "0000:00:00.0".parse()?, InterruptKind::Msi)?;

    let buffer = dma.buffer::<u8>(1000, Permission::Read)?;
    buffer.write_slice(0, &[7; 1000])?;
    println!("{} adds up 1000 bytes of 7: {}", adder.device().address(), adder.sum(&buffer)?);
    Ok(())
}
