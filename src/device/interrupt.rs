//! Interrupts of a device, delivered by eventfd.

use super::config::{Config, MSIX};
use super::error::{AccessError, DeviceError};
use super::kind::{EnabledKinds, InterruptInfo, InterruptKind};
use super::open::OpenDevice;
use super::pe::RawDevice;
use crate::host::calls::{self, Failure};
use crate::host::{Errno, Region};
use crate::uapi::vfio::PCI_BAR0_REGION_INDEX;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All interrupts of one kind; the last one dropped disables them.
struct Enabled {
    open: Arc<OpenDevice>,
    kind: InterruptKind,
    owner: u64,
}

impl core::fmt::Debug for Enabled {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{} of {}", self.kind, self.open.address)
    }
}

impl Drop for Enabled {
    fn drop(&mut self) {
        if !self.open.process.is_current() {
            return;
        }
        let mut kinds = self.open.enabled.lock();
        if *kinds.owner(self.kind) != Some(self.owner) {
            return;
        }
        kinds.take(self.kind);
        if let Err(error) = calls::disable_irqs(self.open.raw.host().as_ref(), self.open.raw.fd(), self.kind.index()) {
            tracing::warn!(device = %self.open.address, %error, "interrupts stay enabled");
        }
    }
}

impl Enabled {
    /// Fails if the drop or the recovery of the device has disabled it meanwhile.
    fn check(&self, kinds: &mut EnabledKinds) -> Result<(), DeviceError> {
        if *kinds.owner(self.kind) == Some(self.owner) {
            return Ok(());
        }
        Err(DeviceError::Disabled { device: Arc::clone(&self.open.address), kind: self.kind })
    }

    fn rearm(&self) -> Result<(), DeviceError> {
        let mut kinds = self.open.enabled.lock();
        self.check(&mut kinds)?;
        let (host, fd) = (self.open.raw.host().as_ref(), self.open.raw.fd());
        match self.kind {
            InterruptKind::Intx => Ok(calls::unmask_irq(host, fd, self.kind.index())?),
            _ => Ok(()),
        }
    }
}

/// All interrupts of one kind, signalled to the caller's eventfds; disabled when this is dropped.
/// It keeps the device's file open.
#[derive(Debug)]
pub struct ForwardedInterrupts {
    count: u32,
    enabled: Enabled,
}

impl ForwardedInterrupts {
    /// Lets INTx fire again, after the device has deasserted its pin. The other kinds do not need
    /// it.
    pub fn rearm(&self) -> Result<(), DeviceError> {
        self.enabled.rearm()
    }

    /// Has the kernel do what [`Self::rearm`] does whenever `eventfd` is signalled: KVM signals the
    /// one it was given for the guest's end of interrupt (`resamplefd`). For INTx only; the kernel
    /// refuses it for others.
    pub fn rearm_by(&self, eventfd: BorrowedFd<'_>) -> Result<(), DeviceError> {
        let Enabled { open, kind, .. } = &self.enabled;
        let mut kinds = open.enabled.lock();
        self.enabled.check(&mut kinds)?;
        Ok(calls::unmask_irq_by(open.raw.host().as_ref(), open.raw.fd(), kind.index(), eventfd)?)
    }

    /// Returns how many there are.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Returns their kind.
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
    /// Waits until it fires. Returns false if it has not within `timeout`; `None` waits forever.
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
pub(super) fn info(open: &OpenDevice, kind: InterruptKind) -> Result<InterruptInfo, DeviceError> {
    let none = || DeviceError::NoInterrupt { device: Arc::clone(&open.address), kind };
    match calls::device_irq_info(open.raw.host().as_ref(), open.raw.fd(), kind.index()) {
        Ok(info) if info.count > 0 => Ok(InterruptInfo { kind, count: info.count }),
        Ok(_) => Err(none()),
        // Error interrupts of a device that is not PCI Express.
        Err(error) if error.errno() == Some(Errno::EINVAL) => Err(none()),
        Err(error) => Err(error.into()),
    }
}

/// Enables the first `count` interrupts of a kind, in one call.
pub(super) fn enable(open: &Arc<OpenDevice>, kind: InterruptKind, count: u32) -> Result<Vec<Interrupt>, DeviceError> {
    check_count(open, kind, count)?;
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
    let eventfds: Result<Vec<_>, _> = (0..count).map(|_| EventFd::from_flags(flags)).collect();
    let eventfds = eventfds.map_err(DeviceError::Eventfd)?;
    let borrowed: Vec<_> = eventfds.iter().map(|eventfd| eventfd.as_fd()).collect();
    let enabled = Arc::new(enable_all(open, kind, count, &borrowed)?);
    let interrupt = |(vector, eventfd)| Interrupt { eventfd, vector, enabled: Arc::clone(&enabled) };
    Ok((0..count).zip(eventfds).map(interrupt).collect())
}

/// Enables interrupts for the caller's eventfds.
pub(super) fn forward(
    open: &Arc<OpenDevice>,
    kind: InterruptKind,
    eventfds: &[BorrowedFd<'_>],
) -> Result<ForwardedInterrupts, DeviceError> {
    let count = u32::try_from(eventfds.len()).unwrap_or(u32::MAX);
    check_count(open, kind, count)?;
    Ok(ForwardedInterrupts { count, enabled: enable_all(open, kind, count, eventfds)? })
}

fn check_count(open: &OpenDevice, kind: InterruptKind, count: u32) -> Result<(), DeviceError> {
    let there = info(open, kind)?.count;
    if count == 0 || count > there {
        return Err(DeviceError::Vectors { device: Arc::clone(&open.address), kind, requested: count, there });
    }
    Ok(())
}

fn enable_all(
    open: &Arc<OpenDevice>,
    kind: InterruptKind,
    count: u32,
    eventfds: &[BorrowedFd<'_>],
) -> Result<Enabled, DeviceError> {
    let device = || Arc::clone(&open.address);
    let mut kinds = open.enabled.lock();
    if kinds.owner(kind).is_some() {
        return Err(DeviceError::EnabledAlready { device: device(), kind });
    }
    if let Some(enabled) = kinds.exclusive().filter(|_| kind.is_exclusive()) {
        return Err(DeviceError::OtherKind { device: device(), requested: kind, enabled });
    }
    calls::enable_irqs(open.raw.host().as_ref(), open.raw.fd(), kind.index(), eventfds).map_err(|error| match error
        .failure
    {
        Failure::Positive(available) => {
            DeviceError::Exhausted { device: device(), kind, requested: count, available: available.unsigned_abs() }
        }
        _ => error.into(),
    })?;
    if kind == InterruptKind::Msix {
        let missing = without_message(&open.raw, &open.address, &open.config, count);
        if !matches!(missing, Ok(None)) {
            calls::disable_irqs(open.raw.host().as_ref(), open.raw.fd(), kind.index())?;
        }
        if let Some(vector) = missing? {
            return Err(DeviceError::NoMessages { device: device(), kind, vector });
        }
    }
    let owner = kinds.enable(kind);
    Ok(Enabled { open: Arc::clone(open), kind, owner })
}

/// Offset in the capability of the table's location: the BAR in the low bits, an offset in it in
/// the others.
const MSIX_TABLE: u64 = 4;
const TABLE_BAR: u32 = 7;
/// Size in bytes of a table entry, which begins with the address.
const TABLE_ENTRY: u64 = 16;

/// Returns the first of `count` MSI-X vectors without an address, to which the device would send
/// nothing.
///
/// Linux 7.2 on pseries has the firmware fill the table once for each binding to a driver. The
/// reset when vfio-pci's device is opened again clears it, and it is never refilled: the interrupts
/// are enabled but never arrive (seen on 7.2.13 under QEMU).
fn without_message(
    device: &RawDevice,
    address: &Arc<str>,
    config: &Config,
    count: u32,
) -> Result<Option<u32>, DeviceError> {
    let Some(capability) = config.capability(MSIX) else { return Ok(None) };
    let table: u32 = config.read(capability + MSIX_TABLE)?;
    let (bar, offset) = (table & TABLE_BAR, u64::from(table & !TABLE_BAR));
    let failed = |errno| DeviceError::Region { device: Arc::clone(address), region: "MSI-X table", errno };
    let region = device.region(PCI_BAR0_REGION_INDEX + bar).map_err(failed)?;
    without_address(&*region, offset, count).map_err(|errno| {
        let (device, region) = (Arc::clone(address), "MSI-X table");
        AccessError::Failed { device, region, offset, width: size_of::<u32>(), errno }.into()
    })
}

fn without_address(table: &dyn Region, offset: u64, count: u32) -> Result<Option<u32>, Errno> {
    for vector in 0..count {
        let mut low = [0; 4];
        let mut high = [0; 4];
        let at = offset + u64::from(vector) * TABLE_ENTRY;
        table.read(at, &mut low)?;
        table.read(at + 4, &mut high)?;
        if low == [0; 4] && high == [0; 4] {
            return Ok(Some(vector));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PageShift;
    use crate::host::Shared;

    #[test]
    fn a_vector_without_an_address_is_found() {
        let table = Shared::heap(4096, PageShift::P4K).unwrap();
        table.write(0x100, &[0, 0, 0, 1]).unwrap();
        table.write(0x114, &[1, 0, 0, 0]).unwrap();
        table.write(0x12c, &[1, 1, 1, 1]).unwrap();
        assert_eq!(without_address(&table, 0x100, 2), Ok(None));
        assert_eq!(without_address(&table, 0x100, 3), Ok(Some(2)), "it has data and control alone");
        assert_eq!(without_address(&table, 4096, 1), Err(Errno::EINVAL));
    }
}
