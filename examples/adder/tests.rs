//! The driver on models of every kind of machine, and on a device that fails.

use crate::driver::{Adder, AdderError};
use crate::model::AdderModel;
use spapr_iommu::device::{AccessError, InterruptKind};
use spapr_iommu::model::Model;
use spapr_iommu::model::pci::DeviceFault;
use spapr_iommu::{Buffer, Dma, Group, PciAddress, Permission};
use std::sync::Arc;

struct Rig {
    adder: Adder,
    buffer: Buffer<u8>,
    dma: Dma,
    model: Arc<Model>,
}

fn address() -> PciAddress {
    "0000:00:00.0".parse().unwrap()
}

impl Rig {
    fn new(preset: &str, kind: InterruptKind) -> Self {
        let model = Model::new(preset.parse().unwrap()).panic_on_violation();
        let model = Arc::new(model.with_device(Group(0), AdderModel::default()).unwrap());
        let dma = Dma::new(model.clone());
        let adder = Adder::open(&dma, address(), kind).unwrap();
        let buffer = dma.buffer(1000, Permission::Read).unwrap();
        buffer.write_slice(0, &[7; 1000]).unwrap();
        Self { adder, buffer, dma, model }
    }

    fn adds_up(&self) {
        assert_eq!(self.adder.sum(&self.buffer).unwrap(), 7000);
    }
}

#[test]
fn it_adds_up_on_every_machine_with_every_interrupt() {
    for preset in ["powernv8", "powernv9-4k", "pseries", "pseries-4k-7.2"] {
        for kind in [InterruptKind::Intx, InterruptKind::Msi] {
            let rig = Rig::new(preset, kind);
            rig.adds_up();
            rig.adds_up();
            assert!(rig.model.violations().is_empty(), "{preset} {kind}");
        }
    }
}

#[test]
fn memory_out_of_reach_fails_or_freezes() {
    for (preset, freezes) in [("pseries", false), ("powernv9", true)] {
        let Rig { adder, buffer, dma, model } = Rig::new(preset, InterruptKind::Msi);
        // A buffer of another address space.
        let other = Rig::new(preset, InterruptKind::Msi);
        let elsewhere = other.dma.buffer::<u8>(32 << 20, Permission::Read).unwrap();
        let error = adder.sum(&elsewhere).unwrap_err();
        assert_eq!(model.violations().len(), 1, "the access is recorded");
        if freezes {
            assert!(matches!(error, AdderError::Access(AccessError::Frozen { .. })), "{error}");
            adder.device().eeh().recover().unwrap();
        } else {
            assert!(matches!(error, AdderError::Failed), "{error}");
        }
        // A driver opens the device again.
        drop(adder);
        let adder = Adder::open(&dma, address(), InterruptKind::Msi).unwrap();
        Rig { adder, buffer, dma, model }.adds_up();
    }
}

#[test]
fn a_device_that_hangs_is_reported() {
    let rig = Rig::new("powernv9", InterruptKind::Msi);
    rig.model.set_fault(address(), Some(DeviceFault::StuckDma)).unwrap();
    assert!(matches!(rig.adder.sum(&rig.buffer), Err(AdderError::Stuck(1))));
    rig.model.set_fault(address(), None).unwrap();
    assert!(rig.model.step(), "it ends after all");
    rig.adds_up();
}
