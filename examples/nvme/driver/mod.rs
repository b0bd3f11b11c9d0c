//! A driver for NVMe disks in user space, over `spapr_iommu::{dma, device}`.
//!
//! [`Disk::open`] brings a controller up and makes one pair of queues; [`Disk::submit`], [`Disk::ring`] and [`Disk::poll`] are the
//! commands one by one, [`Disk::run`] and [`Disk::transfer`] many of them. In the steady state nothing is allocated and,
//! where it polls, no system call made.
//!
//! Written after the NVM Express base specification 2.0 and the NVM command set specification 1.0.

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

/// How long a command may take.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

/// How to know of completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
#[strum(serialize_all = "kebab-case")]
pub(crate) enum Wait {
    /// Sleep until the controller interrupts.
    Interrupts,
    /// Look, without interrupts.
    Polling,
}

/// How a disk is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// Bus addresses the controller is said to reach: by its nature all.
    pub(crate) mask: DmaMask,
    /// Commands that may be under way at a time.
    pub(crate) depth: u16,
    /// How to know of completions.
    pub(crate) wait: Wait,
    /// Interrupts of this kind; `None` for the best it has.
    pub(crate) kind: Option<InterruptKind>,
}
