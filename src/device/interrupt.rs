//! Interrupts of a device, delivered by eventfd.

use super::opened::Opened;
use super::{DeviceError, messages};
use crate::host::calls::{self, Failure};
use crate::host::{Errno, irqs};
use crate::uapi::vfio::{
    PCI_ERR_IRQ_INDEX, PCI_INTX_IRQ_INDEX, PCI_MSI_IRQ_INDEX, PCI_MSIX_IRQ_INDEX, PCI_REQ_IRQ_INDEX,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Kinds of interrupt. A device has one of INTx, MSI and MSI-X enabled at a time; the other two
/// come from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::Display)]
pub enum InterruptKind {
    /// The interrupt pin. It masks itself when it fires: make the device deassert it, then call
    /// [`Interrupt::rearm`].
    #[strum(to_string = "INTx")]
    Intx,
    /// Messages. They are writes by the device, so none arrives while bus mastering is off.
    #[strum(to_string = "MSI")]
    Msi,
    /// Messages as with MSI, but more of them.
    #[strum(to_string = "MSI-X")]
    Msix,
    /// An uncorrected error of a PCI Express device.
    #[strum(to_string = "error interrupt")]
    Error,
    /// The host's request to give the device back: drop it.
    #[strum(to_string = "request interrupt")]
    Request,
}

impl InterruptKind {
    pub(super) const ALL: [Self; 5] = [Self::Intx, Self::Msi, Self::Msix, Self::Error, Self::Request];

    pub(super) fn index(self) -> u32 {
        match self {
            Self::Intx => PCI_INTX_IRQ_INDEX,
            Self::Msi => PCI_MSI_IRQ_INDEX,
            Self::Msix => PCI_MSIX_IRQ_INDEX,
            Self::Error => PCI_ERR_IRQ_INDEX,
            Self::Request => PCI_REQ_IRQ_INDEX,
        }
    }

    /// Returns whether it is one of the three kinds that exclude each other.
    fn is_exclusive(self) -> bool {
        matches!(self, Self::Intx | Self::Msi | Self::Msix)
    }
}

/// The interrupts a device has of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptInfo {
    /// Kind of interrupt.
    pub kind: InterruptKind,
    /// Number of vectors, at least 1.
    pub count: u32,
}

/// The enabled kinds, each with its [`Enabled`].
#[derive(Debug, Default)]
pub(super) struct Slots {
    owners: [Option<u64>; 5],
    last: u64,
}

impl Slots {
    fn owner(&mut self, kind: InterruptKind) -> &mut Option<u64> {
        &mut self.owners[kind.index() as usize]
    }

    /// Marks a kind as disabled. Returns whether it was enabled.
    pub(super) fn take(&mut self, kind: InterruptKind) -> bool {
        self.owner(kind).take().is_some()
    }

    fn exclusive(&self) -> Option<InterruptKind> {
        InterruptKind::ALL.into_iter().find(|kind| kind.is_exclusive() && self.owners[kind.index() as usize].is_some())
    }
}

/// All interrupts of one kind; the last one dropped disables them.
#[derive(Debug)]
struct Enabled {
    opened: Arc<Opened>,
    kind: InterruptKind,
    owner: u64,
}

impl Drop for Enabled {
    fn drop(&mut self) {
        let mut slots = self.opened.slots.lock();
        if *slots.owner(self.kind) != Some(self.owner) {
            return;
        }
        slots.take(self.kind);
        if let Err(error) =
            irqs::disable(self.opened.device.host().as_ref(), self.opened.device.fd(), self.kind.index())
        {
            tracing::warn!(device = %self.opened.address, %error, "interrupts stay enabled");
        }
    }
}

/// One interrupt of a device. It keeps the device's file open.
///
/// Its file ([`AsFd`]) becomes readable when it fires, for event loops:
/// `wait(Some(Duration::ZERO))` then consumes it.
#[derive(Debug)]
pub struct Interrupt {
    eventfd: EventFd,
    vector: u32,
    enabled: Arc<Enabled>,
}

impl Interrupt {
    /// Waits until it fires. Returns false if it has not within `timeout`; `None` waits for ever.
    /// Firing several times counts as one.
    ///
    /// An interrupt of a device that is gone or frozen never fires, so wait with a timeout and then
    /// read a register.
    pub fn wait(&self, timeout: Option<Duration>) -> Result<bool, Errno> {
        let until = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            // Rounded up to milliseconds, and never longer than the kernel accepts.
            let wait = left.map_or(PollTimeout::NONE, |left| {
                PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX)
            });
            match poll(&mut [PollFd::new(self.eventfd.as_fd(), PollFlags::POLLIN)], wait) {
                Ok(0) if left.is_some_and(|left| left <= Duration::from_millis(i32::MAX as u64)) => return Ok(false),
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(errno) => return Err(errno),
            }
            match self.eventfd.read() {
                Ok(_) => return Ok(true),
                // Another thread was faster.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Lets INTx fire again, after the device has deasserted its pin; if it has not, it fires at
    /// once. The other kinds do not need it.
    pub fn rearm(&self) -> Result<(), DeviceError> {
        let Enabled { opened, kind, owner } = &*self.enabled;
        let mut slots = opened.slots.lock();
        if *slots.owner(*kind) != Some(*owner) {
            return Err(DeviceError::Disabled { device: Arc::clone(&opened.address), kind: *kind });
        }
        match kind {
            InterruptKind::Intx => Ok(irqs::unmask(opened.device.host().as_ref(), opened.device.fd(), kind.index())?),
            _ => Ok(()),
        }
    }

    /// Returns its vector, from 0.
    pub fn vector(&self) -> u32 {
        self.vector
    }

    /// Returns its kind.
    pub fn kind(&self) -> InterruptKind {
        self.enabled.kind
    }
}

impl AsFd for Interrupt {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}

/// Returns how many interrupts of a kind a device has.
pub(super) fn info(opened: &Opened, kind: InterruptKind) -> Result<InterruptInfo, DeviceError> {
    let none = || DeviceError::NoInterrupt { device: Arc::clone(&opened.address), kind };
    match calls::device_irq_info(opened.device.host().as_ref(), opened.device.fd(), kind.index()) {
        Ok(info) if info.count > 0 => Ok(InterruptInfo { kind, count: info.count }),
        Ok(_) => Err(none()),
        // Error interrupts of a device that is not PCI Express.
        Err(error) if error.errno() == Some(Errno::EINVAL) => Err(none()),
        Err(error) => Err(error.into()),
    }
}

/// Enables the first `count` interrupts of a kind, in one call.
pub(super) fn enable(opened: &Arc<Opened>, kind: InterruptKind, count: u32) -> Result<Vec<Interrupt>, DeviceError> {
    let device = || Arc::clone(&opened.address);
    let there = info(opened, kind)?.count;
    if count == 0 || count > there {
        return Err(DeviceError::Vectors { device: device(), kind, asked: count, there });
    }
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let eventfds: Result<Vec<_>, _> = (0..count).map(|_| EventFd::from_flags(flags)).collect();
    let eventfds = eventfds.map_err(DeviceError::Eventfd)?;
    let mut slots = opened.slots.lock();
    if slots.owner(kind).is_some() {
        return Err(DeviceError::EnabledAlready { device: device(), kind });
    }
    if let Some(enabled) = slots.exclusive().filter(|_| kind.is_exclusive()) {
        return Err(DeviceError::OtherKind { device: device(), asked: kind, enabled });
    }
    let borrowed: Vec<_> = eventfds.iter().map(|eventfd| eventfd.as_fd()).collect();
    irqs::enable(opened.device.host().as_ref(), opened.device.fd(), kind.index(), &borrowed).map_err(|error| {
        match error.failure {
            Failure::Positive(available) => {
                DeviceError::Exhausted { device: device(), kind, asked: count, available: available.unsigned_abs() }
            }
            Failure::Errno(_) => error.into(),
        }
    })?;
    if kind == InterruptKind::Msix {
        let missing = messages::missing(&opened.device, &opened.address, &opened.config, count);
        if !matches!(missing, Ok(None)) {
            irqs::disable(opened.device.host().as_ref(), opened.device.fd(), kind.index())?;
        }
        if let Some(vector) = missing? {
            return Err(DeviceError::NoMessages { device: device(), kind, vector });
        }
    }
    slots.last += 1;
    let owner = slots.last;
    *slots.owner(kind) = Some(owner);
    let enabled = Arc::new(Enabled { opened: Arc::clone(opened), kind, owner });
    let interrupt = |(vector, eventfd)| Interrupt { eventfd, vector, enabled: Arc::clone(&enabled) };
    Ok((0..count).zip(eventfds).map(interrupt).collect())
}
