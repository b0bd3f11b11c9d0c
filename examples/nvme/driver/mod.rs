//! A driver for NVMe disks in user space, over `spapr_iommu::{dma, device}`.
//!
//! [`Disk::open`] starts a controller and creates one pair of queues. [`Disk::submit`],
//! [`Disk::ring`] and [`Disk::poll`] handle single commands, [`Disk::run`] and [`Disk::transfer`]
//! many. In steady state nothing is allocated and, when polling, no system call is made.
//!
//! Follows the NVM Express base specification 2.0 and the NVM command set specification 1.0.

#![allow(dead_code, reason = "each program that includes the driver uses a part")]

mod command;
mod controller;
mod disk;
mod error;
mod identify;
mod queue;
mod registers;

pub(crate) use command::Operation;
pub(crate) use disk::{Disk, Request};
pub(crate) use error::NvmeError;

use spapr_iommu::device::InterruptKind;
use spapr_iommu::dma::DmaMask;
use std::time::Duration;

/// Time limit of a command.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// How to detect completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Wait {
    /// Sleep until the controller interrupts.
    Interrupts,
    /// Look, without interrupts.
    Polling,
}

/// Setup of a disk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// Bus addresses the controller is limited to; it can reach all of them.
    pub(crate) mask: DmaMask,
    /// Largest number of commands in progress at a time.
    pub(crate) depth: u16,
    /// How to detect completions.
    pub(crate) wait: Wait,
    /// Kind of interrupts; `None` for the best it has.
    pub(crate) kind: Option<InterruptKind>,
}
