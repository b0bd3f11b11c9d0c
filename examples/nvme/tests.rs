//! The program on models, and the driver on a disk that fails.

use crate::cases::{checksum, config, fill, part};
use crate::driver::{Disk, NvmeError, Operation, Request, Setup, Wait};
use crate::{Options, devices, registers, run};
use clap::Parser;
use fastrand::Rng;
use spapr_iommu::Group;
use spapr_iommu::addr::{Iova, IovaRange};
use spapr_iommu::device::eeh::PeState;
use spapr_iommu::device::{AccessError, InterruptKind};
use spapr_iommu::dma::{Buffer, Dma, DmaMask};
use spapr_iommu::host::Host;
use spapr_iommu::model::Model;
use spapr_iommu::model::pci::DeviceFault;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::uapi::eeh::state;
use std::sync::Arc;

const DISK: &str = "0000:00:00.0";
const BYTES: u64 = 256 << 10;

fn run_program(arguments: &str) {
    run(&Options::parse_from(format!("nvme {arguments}").split(' ')))
        .unwrap_or_else(|error| panic!("{arguments}: {error}"));
}

#[test]
fn the_program_works_on_every_kind_of_model() {
    for preset in ["powernv8-4k", "powernv9-64k", "powernv10-7.2", "pseries-4k", "pseries-64k", "pseries-64k-7.2"] {
        run_program(&format!("--host model:{preset} --blocks 600"));
    }
    for kind in ["msix", "intx"] {
        run_program(&format!("--host model:powernv9 --blocks 64 --interrupts {kind}"));
    }
}

#[test]
fn two_disks_share_memory_on_models() {
    for preset in ["powernv9-4k", "pseries-64k"] {
        run_program(&format!("--host model:{preset} --blocks 600 --share"));
    }
}

#[test]
fn rounds_leave_nothing_on_models() {
    for preset in ["powernv9-64k", "pseries-4k"] {
        run_program(&format!("--host model:{preset} --rounds 3"));
    }
}

/// CAP bit 43: several I/O command sets, of which the model has one.
const COMMAND_SETS: u64 = 1 << 43;

/// `ppc64/run --machine powernv9 --kernel 6.12-64k --device nvme -- nvme --registers` prints the
/// file, and `ppc64/matrix` checks that each machine does.
#[test]
fn the_model_shows_what_qemu_s_controller_shows() {
    let mut expected: serde_json::Value = serde_json::from_str(include_str!("registers.json")).unwrap();
    let cap = expected["registers"]["cap"].as_u64().unwrap();
    expected["registers"]["cap"] = (cap & !COMMAND_SETS).into();
    for preset in ["powernv9-64k", "pseries-4k"] {
        let host: Arc<dyn Host> = Arc::new(devices::with_disks(preset).unwrap());
        assert_eq!(registers::read(&host, None).unwrap(), expected, "{preset}");
    }
}

/// Once the freeze is provoked from outside, and once by a transfer that no TCE allows.
#[test]
fn a_disk_that_is_frozen_is_recovered_with_what_is_on_it() {
    for wrong_dma in [false, true] {
        let mut rig = Rig::new("powernv9-64k");
        let mut request = rig.request();
        if wrong_dma {
            request.iova = IovaRange::new(Iova(0x7000_0000), 4096).unwrap();
        } else {
            rig.model.set_eeh_state(Group(0), state::STOPPED);
        }
        let error = run_one(&mut rig.disk, request).unwrap_err();
        assert!(matches!(error, NvmeError::Access(AccessError::Frozen { state: PeState::Stopped, .. })), "{error}");
        assert_eq!(rig.model.violations().len(), usize::from(wrong_dma));
        rig.disk.device().eeh().recover().unwrap();
        rig.open_again();
        rig.reads_back();
    }
}

/// Without EEH the controller answers that the transfer failed, and goes on.
#[test]
fn a_transfer_that_no_tce_allows_is_an_error_of_its_command() {
    let mut rig = Rig::new("pseries");
    let request = Request { iova: IovaRange::new(Iova(0x7000_0000), 4096).unwrap(), ..rig.request() };
    let error = run_one(&mut rig.disk, request).unwrap_err();
    assert!(matches!(error, NvmeError::Command { status, .. } if (status.kind(), status.code()) == (0, 4)), "{error}");
    assert_eq!(rig.model.violations().len(), 1);
    rig.reads_back();
}

#[test]
fn a_controller_whose_registers_read_as_ones_has_failed() {
    let mut rig = Rig::new("powernv9");
    rig.set_fault(Some(DeviceFault::AllOnes));
    let request = rig.request();
    let error = run_one(&mut rig.disk, request).unwrap_err();
    assert!(matches!(error, NvmeError::Failed { status: u32::MAX }), "{error}");
    rig.set_fault(None);
    rig.open_again();
    rig.reads_back();
}

#[test]
fn commands_that_stick_are_answered_when_it_is_over() {
    let mut rig = Rig::new("pseries-4k");
    rig.set_fault(Some(DeviceFault::StuckDma));
    let id = rig.disk.submit(&rig.request()).unwrap();
    rig.disk.ring().unwrap();
    assert!(!rig.model.step() && rig.disk.poll().unwrap().is_none());
    rig.set_fault(None);
    assert!(rig.model.step());
    assert_eq!(rig.disk.poll().unwrap(), Some(id));
    rig.reads_back();
}

#[test]
fn interrupts_without_cause_harm_nothing() {
    for kind in [InterruptKind::Msix, InterruptKind::Intx] {
        let mut rig = Rig::with("powernv9", kind);
        rig.set_fault(Some(DeviceFault::InterruptStorm));
        rig.reads_back();
        assert!(rig.disk.has_interrupted().unwrap(), "{kind}");
    }
}

/// A disk, with a buffer that holds what was written to it.
struct Rig {
    /// Dropped before it is opened again.
    disk: Disk,
    kind: InterruptKind,
    buffer: Buffer<u8>,
    dma: Dma,
    model: Arc<Model>,
    checksum: u32,
}

fn open(dma: &Dma, address: &str, kind: InterruptKind) -> Disk {
    let setup = Setup { mask: DmaMask::ALL, depth: 8, wait: Wait::Interrupts, kind: Some(kind) };
    Disk::open(dma, address.parse().unwrap(), &setup).unwrap()
}

fn run_one(disk: &mut Disk, request: Request) -> Result<u64, NvmeError> {
    let mut request = Some(request);
    disk.run(|| request.take())
}

impl Rig {
    fn new(preset: &str) -> Self {
        Self::with(preset, InterruptKind::Msix)
    }

    fn with(preset: &str, kind: InterruptKind) -> Self {
        let model = Arc::new(devices::with_disks(preset).unwrap());
        let dma = Dma::with_registry(&Registry::new(model.clone()), config(BYTES, false));
        let mut disk = open(&dma, DISK, kind);
        let buffer = dma.buffer::<u8>(BYTES as usize, Permission::ReadWrite).unwrap();
        let checksum = fill(&buffer, 0, BYTES, &mut Rng::new()).unwrap();
        disk.transfer(Operation::Write, 0, part(&buffer, 0, BYTES).unwrap()).unwrap();
        Self { disk, kind, buffer, dma, model, checksum }
    }

    fn set_fault(&self, fault: Option<DeviceFault>) {
        self.model.set_fault(DISK.parse().unwrap(), fault).unwrap();
    }

    /// Drops the disk and opens it again, as a driver does after a failure.
    fn open_again(&mut self) {
        // A device has one driver at a time: the other disk takes its place meanwhile.
        self.disk = open(&self.dma, "0001:00:00.0", self.kind);
        self.disk = open(&self.dma, DISK, self.kind);
    }

    /// Reads everything back, which must be what was written.
    fn reads_back(&mut self) {
        self.buffer.write_slice(0, &vec![0; BYTES as usize]).unwrap();
        self.disk.transfer(Operation::Read, 0, part(&self.buffer, 0, BYTES).unwrap()).unwrap();
        assert_eq!(checksum(&self.buffer, 0, BYTES).unwrap(), self.checksum);
    }

    fn request(&self) -> Request {
        Request { operation: Operation::Read, first: 0, iova: part(&self.buffer, 0, 4096).unwrap() }
    }
}
