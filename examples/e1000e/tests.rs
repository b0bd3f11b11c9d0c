//! The program on models, and the driver of a controller that fails.

use crate::buffers::Maps;
use crate::cases::{Kernel, config};
use crate::driver::{E1000eError, Port, Setup, Wait};
use crate::packets::{Packets, SMALLEST};
use crate::traffic::{Plan, Traffic};
use crate::{Options, devices, registers, run};
use clap::Parser;
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::device::eeh::PeState;
use spapr_iommu::device::{AccessError, Device, InterruptKind};
use spapr_iommu::dma::{Dma, DmaMask};
use spapr_iommu::host::Host;
use spapr_iommu::model::pci::DeviceFault;
use spapr_iommu::model::{Model, Recording};
use spapr_iommu::registry::Registry;
use spapr_iommu::uapi::eeh::state;
use std::sync::Arc;

const CONTROLLER: &str = "0000:00:00.0";
/// A bus address without memory.
const NOWHERE: u64 = 0x7000_0000;

fn run_program(arguments: &str) {
    run(&Options::parse_from(format!("e1000e {arguments}").split(' ')))
        .unwrap_or_else(|error| panic!("{arguments}: {error}"));
}

#[test]
fn the_program_works_on_every_kind_of_model() {
    for preset in ["powernv8-4k", "powernv9-64k", "powernv10-7.2", "pseries-4k", "pseries-64k", "pseries-64k-7.2"] {
        run_program(&format!("--host model:{preset} --packets 150"));
    }
    for kind in ["msix", "msi", "intx"] {
        run_program(&format!("--host model:powernv9 --packets 100 --interrupts {kind} --wait interrupts"));
    }
    run_program("--host model:pseries-64k --packets 100 --largest 9014");
}

#[test]
fn rounds_leave_nothing_on_models() {
    for preset in ["powernv9-64k", "pseries-4k"] {
        run_program(&format!("--host model:{preset} --rounds 3"));
    }
}

/// `ppc64/run --machine powernv9 --kernel 6.12-64k --device e1000e -- e1000e --registers` prints
/// the file, and `ppc64/matrix` checks that each machine does.
#[test]
fn the_model_shows_what_qemu_s_controller_shows() {
    let expected: serde_json::Value = serde_json::from_str(include_str!("registers.json")).unwrap();
    for preset in ["powernv9-64k", "pseries-4k"] {
        let host: Arc<Kernel> = Arc::new(Recording::new(Arc::new(devices::with_controller(preset).unwrap())));
        assert_eq!(registers::read(&host, None).unwrap(), expected, "{preset}");
    }
}

/// Once the freeze is provoked from outside, and once by a packet that no TCE lets the controller
/// read.
#[test]
fn a_controller_that_is_frozen_is_found_and_recovered() {
    for (wrong_dma, wait) in [(false, Wait::Interrupts), (true, Wait::Polling)] {
        let rig = Rig::new("powernv9-64k");
        let mut port = Port::start(&rig.dma, &rig.device, &setup(wait, InterruptKind::Msix)).unwrap();
        if wrong_dma {
            port.send(0, &[IovaRange::new(Iova(NOWHERE), 60).unwrap()], ()).unwrap();
            port.ring().unwrap();
        } else {
            rig.model.set_eeh_state(Group(0), state::STOPPED);
        }
        let error = loop {
            if let Err(error) = port.wait() {
                break error;
            }
            assert!(port.reclaim().unwrap().is_none());
        };
        assert!(matches!(error, E1000eError::Access(AccessError::Frozen { state: PeState::Stopped, .. })), "{error}");
        assert_eq!(rig.model.violations().len(), usize::from(wrong_dma));
        drop(port);
        rig.device.eeh().recover().unwrap();
        rig.works(InterruptKind::Msix);
    }
}

/// Without EEH the packet is lost, and the controller goes on.
#[test]
fn a_packet_that_no_tce_lets_the_controller_read_is_not_sent() {
    let rig = Rig::new("pseries");
    let mut port = Port::start(&rig.dma, &rig.device, &setup(Wait::Polling, InterruptKind::Msix)).unwrap();
    port.send(1, &[IovaRange::new(Iova(NOWHERE), 60).unwrap()], "held").unwrap();
    port.ring().unwrap();
    assert_eq!((port.reclaim().unwrap(), port.receive().unwrap().is_none()), (Some("held"), true));
    assert_eq!(rig.model.violations().len(), 1);
    port.close().unwrap();
    rig.works(InterruptKind::Msix);
}

#[test]
fn interrupts_without_cause_harm_nothing() {
    for kind in [InterruptKind::Msix, InterruptKind::Msi, InterruptKind::Intx] {
        let rig = Rig::new("powernv9");
        rig.model.set_fault(CONTROLLER.parse().unwrap(), Some(DeviceFault::InterruptStorm)).unwrap();
        rig.works(kind);
    }
}

/// A model with a controller.
struct Rig {
    device: Device,
    dma: Dma,
    model: Arc<Model>,
}

fn setup(wait: Wait, kind: InterruptKind) -> Setup {
    Setup { entries: 64, wait, kind: Some(kind), loopback: true }
}

impl Rig {
    fn new(preset: &str) -> Self {
        let model = Arc::new(devices::with_controller(preset).unwrap());
        let host: Arc<Kernel> = Arc::new(Recording::new(model.clone() as Arc<dyn Host>));
        let dma = Dma::with_registry(&Registry::new(host.clone()), config(&host, false));
        let device = dma.open(CONTROLLER.parse().unwrap(), DmaMask::ALL).unwrap();
        Self { device, dma, model }
    }

    /// Sends packets, each of which must arrive.
    fn works(&self, kind: InterruptKind) {
        let plan = Plan { setup: setup(Wait::Interrupts, kind), maps: Maps::Scattered, depth: 16, largest: 1514 };
        let mut traffic = Traffic::start(&self.dma, &self.device, &plan).unwrap();
        let mut packets = Packets::new(SMALLEST..=plan.largest, traffic.port.address());
        traffic.run(&mut packets, 200).unwrap();
        assert_eq!((packets.arrived(), traffic.port.interrupt_kind()), (200, Some(kind)));
        traffic.close().unwrap();
    }
}
