//! The program on models, and the driver on a disk that fails.

use crate::cases::{checksum, config, fill, part};
use crate::driver::{Disk, NvmeError, Operation, Setup, Wait};
use crate::{Options, machine, run};
use clap::Parser;
use fastrand::Rng;
use spapr_iommu::Group;
use spapr_iommu::device::AccessError;
use spapr_iommu::device::eeh::PeState;
use spapr_iommu::dma::{Buffer, Dma, DmaMask};
use spapr_iommu::model::Model;
use spapr_iommu::model::pci::DeviceFault;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::Registry;
use spapr_iommu::uapi::eeh::state;
use std::sync::Arc;
use std::time::Duration;

const DISK: &str = "0000:00:00.0";
const BYTES: u64 = 256 << 10;

fn program(arguments: &str) {
    run(&Options::parse_from(format!("nvme {arguments}").split(' ')))
        .unwrap_or_else(|error| panic!("{arguments}: {error}"));
}

#[test]
fn the_program_works_on_every_kind_of_model() {
    for preset in ["powernv8-4k", "powernv9-64k", "powernv10-7.2", "pseries-4k", "pseries-64k", "pseries-64k-7.2"] {
        program(&format!("--host model:{preset} --blocks 600"));
    }
    for kind in ["msix", "intx"] {
        program(&format!("--host model:powernv9 --blocks 64 --interrupts {kind}"));
    }
}

#[test]
fn two_disks_share_memory_on_models() {
    for preset in ["powernv9-4k", "pseries-64k"] {
        program(&format!("--host model:{preset} --blocks 600 --share"));
    }
}

#[test]
fn rounds_leave_nothing_on_models() {
    for preset in ["powernv9-64k", "pseries-4k"] {
        program(&format!("--host model:{preset} --rounds 3"));
    }
}
