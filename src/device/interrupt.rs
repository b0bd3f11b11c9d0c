//! Interrupts of a device, delivered by eventfd.

use super::open::OpenDevice;
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
struct Enabled {
    opened: Arc<OpenDevice>,
    kind: InterruptKind,
    owner: u64,
}

impl core::fmt::Debug for Enabled {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} of {}", self.kind, self.opened.address)
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        if !self.opened.process.is_current() {
            return;
        }
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

impl Enabled {
    /// Whether it was not disabled since, by the end of the device or its recovery.
    fn check(&self, slots: &mut Slots) -> Result<(), DeviceError> {
        if *slots.owner(self.kind) == Some(self.owner) {
            return Ok(());
        }
        Err(DeviceError::Disabled { device: Arc::clone(&self.opened.address), kind: self.kind })
    }

    fn rearm(&self) -> Result<(), DeviceError> {
        let mut slots = self.opened.slots.lock();
        self.check(&mut slots)?;
        let (host, fd) = (self.opened.device.host().as_ref(), self.opened.device.fd());
        match self.kind {
            InterruptKind::Intx => Ok(irqs::unmask(host, fd, self.kind.index())?),
            _ => Ok(()),
        }
    }
}

/// All interrupts of one kind, signalled to eventfds of the caller's; disabled when this is
/// dropped. It keeps the device's file open.
#[derive(Debug)]
pub struct ForwardedInterrupts {
    count: u32,
    enabled: Enabled,
}

impl ForwardedInterrupts {
    /// Lets INTx fire again, once the device has taken its interrupt back. The other kinds need
    /// none of it.
    pub fn rearm(&self) -> Result<(), DeviceError> {
        self.enabled.rearm()
    }

    /// Has the kernel do what [`Self::rearm`] does whenever `eventfd` is signalled: KVM signals the
    /// one it was given for the guest's end of interrupt (`resamplefd`). For INTx only; the kernel
    /// refuses it for others.
    pub fn rearm_by(&self, eventfd: BorrowedFd<'_>) -> Result<(), DeviceError> {
        let Enabled { opened, kind, .. } = &self.enabled;
        let mut slots = opened.slots.lock();
        self.enabled.check(&mut slots)?;
        Ok(irqs::unmask_by(opened.device.host().as_ref(), opened.device.fd(), kind.index(), eventfd)?)
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Their kind.
    pub fn kind(&self) -> InterruptKind {
        self.enabled.kind
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
        self.enabled.rearm()
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
pub(super) fn info(opened: &OpenDevice, kind: InterruptKind) -> Result<InterruptInfo, DeviceError> {
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
pub(super) fn enable(opened: &Arc<OpenDevice>, kind: InterruptKind, count: u32) -> Result<Vec<Interrupt>, DeviceError> {
    check_count(opened, kind, count)?;
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let eventfds: Result<Vec<_>, _> = (0..count).map(|_| EventFd::from_flags(flags)).collect();
    let eventfds = eventfds.map_err(DeviceError::Eventfd)?;
    let borrowed: Vec<_> = eventfds.iter().map(|eventfd| eventfd.as_fd()).collect();
    let enabled = Arc::new(enable_all(opened, kind, count, &borrowed)?);
    let interrupt = |(vector, eventfd)| Interrupt { eventfd, vector, enabled: Arc::clone(&enabled) };
    Ok((0..count).zip(eventfds).map(interrupt).collect())
}

/// Enables interrupts for eventfds of the caller's.
pub(super) fn forward(
    opened: &Arc<OpenDevice>,
    kind: InterruptKind,
    eventfds: &[BorrowedFd<'_>],
) -> Result<ForwardedInterrupts, DeviceError> {
    let count = u32::try_from(eventfds.len()).unwrap_or(u32::MAX);
    check_count(opened, kind, count)?;
    Ok(ForwardedInterrupts { count, enabled: enable_all(opened, kind, count, eventfds)? })
}

fn check_count(opened: &OpenDevice, kind: InterruptKind, count: u32) -> Result<(), DeviceError> {
    let there = info(opened, kind)?.count;
    if count == 0 || count > there {
        return Err(DeviceError::Vectors { device: Arc::clone(&opened.address), kind, asked: count, there });
    }
    Ok(())
}

fn enable_all(
    opened: &Arc<OpenDevice>,
    kind: InterruptKind,
    count: u32,
    eventfds: &[BorrowedFd<'_>],
) -> Result<Enabled, DeviceError> {
    let device = || Arc::clone(&opened.address);
    let mut slots = opened.slots.lock();
    if slots.owner(kind).is_some() {
        return Err(DeviceError::EnabledAlready { device: device(), kind });
    }
    if let Some(enabled) = slots.exclusive().filter(|_| kind.is_exclusive()) {
        return Err(DeviceError::OtherKind { device: device(), asked: kind, enabled });
    }
    irqs::enable(opened.device.host().as_ref(), opened.device.fd(), kind.index(), eventfds).map_err(
        |error| match error.failure {
            Failure::Positive(available) => {
                DeviceError::Exhausted { device: device(), kind, asked: count, available: available.unsigned_abs() }
            }
            Failure::Errno(_) => error.into(),
        },
    )?;
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
    Ok(Enabled { opened: Arc::clone(opened), kind, owner })
}
