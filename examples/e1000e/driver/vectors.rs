//! The interrupts of a port: a vector for each pair of rings with MSI-X, or one for all.

use super::registers::Registers;
use super::{E1000eError, QUEUES};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use spapr_iommu::device::{Device, DeviceError, Interrupt, InterruptKind};
use spapr_iommu::host::Errno;
use std::os::fd::AsFd;
use std::time::Duration;

/// Causes with one vector or a pin: packet sent; few buffers left, none left, packet received.
const CAUSES: u32 = 1 | 1 << 4 | 1 << 6 | 1 << 7;
/// Causes with MSI-X: of each receive ring, then of each transmit ring.
const RECEIVE: u32 = 1 << 20;
const TRANSMIT: u32 = 1 << 22;
/// IVAR: the assignment is valid.
const VALID: u32 = 1 << 3;

/// Enabled interrupts, none for polling.
#[derive(Debug)]
pub(super) struct Vectors {
    interrupts: Vec<Interrupt>,
    /// Causes that interrupt.
    causes: u32,
    /// Whether INTx has fired, so that the kernel has masked it.
    fired: bool,
    /// Number of interrupts received, by vector.
    counts: [u64; QUEUES],
}

impl Vectors {
    /// No interrupts.
    pub(super) fn none() -> Self {
        Self { interrupts: Vec::new(), causes: 0, fired: false, counts: [0; QUEUES] }
    }

    /// Enables interrupts of `kind`, or of the best kind that works.
    pub(super) fn enable(
        device: &Device,
        registers: &Registers,
        kind: Option<InterruptKind>,
    ) -> Result<Self, E1000eError> {
        let interrupts = enable(device, kind)?;
        let first = interrupts.first().ok_or(E1000eError::Unsupported { what: "controllers without interrupts" })?;
        let causes = match first.kind() {
            InterruptKind::Msix => {
                let vector = |queue| if queue < interrupts.len() { queue as u32 } else { 0 };
                let assign = |queue| (VALID | vector(queue)) << (4 * queue);
                let queues = (0..QUEUES).fold(0, |all, queue| all | assign(queue));
                let causes = (0..QUEUES).fold(0, |all, queue| all | (RECEIVE | TRANSMIT) << queue);
                registers.assign_vectors(queues | queues << 8, causes)?;
                causes
            }
            _ => {
                registers.assign_vectors(0, 0)?;
                CAUSES
            }
        };
        Ok(Self { interrupts, causes, ..Self::none() })
    }

    /// Returns the kind in use.
    pub(super) fn kind(&self) -> Option<InterruptKind> {
        self.interrupts.first().map(Interrupt::kind)
    }

    /// Returns how many were received, by vector.
    pub(super) fn counts(&self) -> [u64; QUEUES] {
        self.counts
    }

    /// Allows causes to interrupt: at once if one has occurred since the last interrupt. The
    /// controller itself stops an MSI-X vector when it fires.
    pub(super) fn arm(&mut self, registers: &Registers) -> Result<(), E1000eError> {
        if core::mem::take(&mut self.fired)
            && let Some(interrupt) = self.interrupts.first()
        {
            interrupt.rearm()?;
        }
        Ok(registers.allow(self.causes)?)
    }

    /// Sleeps until an interrupt arrives; returns false if none does within `timeout`.
    pub(super) fn sleep(&mut self, registers: &Registers, timeout: Duration) -> Result<bool, E1000eError> {
        let mut files: Vec<PollFd> =
            self.interrupts.iter().map(|interrupt| PollFd::new(interrupt.as_fd(), PollFlags::POLLIN)).collect();
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        match poll(&mut files, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(false),
            Ok(_) => {}
            Err(errno) => return Err(E1000eError::Wait(errno)),
        }
        for (interrupt, count) in self.interrupts.iter().zip(&mut self.counts) {
            *count += u64::from(interrupt.wait(Some(Duration::ZERO)).map_err(E1000eError::Wait)?);
        }
        match self.kind() {
            // Cleared by the controller.
            Some(InterruptKind::Msix) | None => {}
            // From now on new packets interrupt again, and the pin is low until then.
            Some(kind) => {
                registers.acknowledge()?;
                self.fired = kind == InterruptKind::Intx;
            }
        }
        Ok(true)
    }
}

/// Enables a vector for each pair of rings, or one if the device has only one; of the best kind
/// that works.
fn enable(device: &Device, kind: Option<InterruptKind>) -> Result<Vec<Interrupt>, E1000eError> {
    let best = [InterruptKind::Msix, InterruptKind::Msi, InterruptKind::Intx];
    let mut lost = None;
    for kind in kind.map_or(best.to_vec(), |kind| vec![kind]) {
        let count = |count: u32| count.min(QUEUES as u32);
        match device.interrupts(kind).and_then(|there| device.enable_interrupts(kind, count(there.count))) {
            Ok(interrupts) => return Ok(interrupts),
            Err(DeviceError::NoInterrupt { .. }) => {}
            // The next kind may still work.
            Err(error @ DeviceError::NoMessages { .. }) => lost = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    lost.map_or(Ok(Vec::new()), |error| Err(error.into()))
}
