//! Makes `VFIO_DEVICE_SET_IRQS`: builds it, traces it and checks its result, as
//! [`calls`](super::calls) does for the others.

use super::calls::{Failure, TARGET};
use super::{Errno, Fd, Host};
use crate::uapi::vfio::{
    IRQ_SET_ACTION_TRIGGER, IRQ_SET_ACTION_UNMASK, IRQ_SET_DATA_EVENTFD, IRQ_SET_DATA_NONE, IrqSet,
};
use core::fmt;
use std::os::fd::BorrowedFd;
use std::time::Instant;

/// A `VFIO_DEVICE_SET_IRQS` that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IrqsError {
    /// The call's structure.
    pub set: IrqSet,
    /// How it failed. A positive result is how many MSI or MSI-X vectors are available, fewer than
    /// requested.
    pub failure: Failure,
}

impl std::error::Error for IrqsError {}

impl fmt::Display for IrqsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VFIO_DEVICE_SET_IRQS({}) failed with ", Arguments(&self.set))?;
        match self.failure {
            Failure::Errno(errno) => write!(f, "{errno:?} ({})", errno.desc()),
            Failure::Positive(n) => write!(f, "the positive result {n}"),
        }
    }
}

struct Arguments<'a>(&'a IrqSet);

impl fmt::Display for Arguments<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IrqSet { flags, index, start, count, .. } = self.0;
        write!(f, "index={index} start={start} count={count} flags={flags:#x}")
    }
}

/// Runs the call and traces it. Returns the raw result, unchecked.
pub fn raw(host: &dyn Host, device: Fd, set: IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<i32, Errno> {
    let began = tracing::enabled!(target: TARGET, tracing::Level::DEBUG).then(Instant::now);
    let result = host.set_irqs(device, set, eventfds);
    if let Some(began) = began {
        let took_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(
            target: TARGET, fd = %device, args = %Arguments(&set), result = ?result, took_us, "VFIO_DEVICE_SET_IRQS"
        );
    }
    result
}

fn run(host: &dyn Host, device: Fd, set: IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result<(), IrqsError> {
    match raw(host, device, set, eventfds) {
        Ok(0) => Ok(()),
        Ok(n) => Err(IrqsError { set, failure: Failure::Positive(n) }),
        Err(errno) => Err(IrqsError { set, failure: Failure::Errno(errno) }),
    }
}

/// Enables interrupts 0 to `eventfds.len() - 1` of an index, each with its eventfd.
///
/// All in one call: kernels on POWER cannot add vectors later.
pub fn enable(host: &dyn Host, device: Fd, index: u32, eventfds: &[BorrowedFd<'_>]) -> Result<(), IrqsError> {
    let flags = IRQ_SET_DATA_EVENTFD | IRQ_SET_ACTION_TRIGGER;
    let count = u32::try_from(eventfds.len()).unwrap_or(u32::MAX);
    let eventfds: Vec<_> = eventfds.iter().copied().map(Some).collect();
    run(host, device, IrqSet { flags, index, count, ..Default::default() }, &eventfds)
}

/// Disables all interrupts of an index.
pub fn disable(host: &dyn Host, device: Fd, index: u32) -> Result<(), IrqsError> {
    let flags = IRQ_SET_DATA_NONE | IRQ_SET_ACTION_TRIGGER;
    run(host, device, IrqSet { flags, index, ..Default::default() }, &[])
}

/// Has the kernel unmask the first interrupt of an index whenever `eventfd` is signalled
/// (`vfio_pci_intx_unmask_handler`).
pub fn unmask_by(host: &dyn Host, device: Fd, index: u32, eventfd: BorrowedFd<'_>) -> Result<(), IrqsError> {
    let flags = IRQ_SET_DATA_EVENTFD | IRQ_SET_ACTION_UNMASK;
    run(host, device, IrqSet { flags, index, count: 1, ..Default::default() }, &[Some(eventfd)])
}

/// Unmasks the first interrupt of an index: of INTx, which masks itself when it fires.
pub fn unmask(host: &dyn Host, device: Fd, index: u32) -> Result<(), IrqsError> {
    let flags = IRQ_SET_DATA_NONE | IRQ_SET_ACTION_UNMASK;
    run(host, device, IrqSet { flags, index, count: 1, ..Default::default() }, &[])
}
