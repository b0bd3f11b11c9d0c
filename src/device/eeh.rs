//! EEH: POWER's error handling when a device or its bus misbehaves.
//!
//! The hardware freezes the PE: loads return ones, stores are lost, and DMA is stopped until the PE
//! is recovered. A read of a [`Bar`](crate::device::Bar) that returns all ones checks for it;
//! [`Eeh::recover`] recovers the device, in the one order that is safe. What a frozen
//! device was doing is lost, so set it up again afterwards. Mappings stay as they are.
//!
//! A PE belongs to a group, but the kernel's call acts on all groups of a container. So a device
//! whose group shares its container
//! ([`AddressSpace::attach_beside`](crate::space::AddressSpace::attach_beside)) is refused.

use super::open::OpenDevice;
use super::pe;
pub use super::pe::{PeError, PeState};
use super::{AccessError, DeviceError};
use crate::error::classify;
use crate::host::Errno;
use crate::pci::Group;
use crate::uapi::eeh::{PeErr, op};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a PE may be unavailable while the firmware works on it.
const TIMEOUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Why nothing was done to a PE, or why it does not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum EehError {
    /// A call on the PE failed.
    #[error(transparent)]
    Pe(#[from] PeError),
    /// The PE did not become available in time.
    #[error("the PE of group {group} was unavailable for {} s: the firmware may have given the device up", waited.as_secs())]
    Unavailable { group: Group, waited: Duration },
    /// The PE was reset but still does not work.
    #[error("the PE of group {group} was reset and is {state}: the device fails, drop it")]
    NotRecovered { group: Group, state: PeState },
    /// The device that answers after the reset is not the one from before.
    #[error("device {device} was {was:x?} before the reset and is {now:x?}")]
    OtherDevice { device: Arc<str>, was: (u16, u16), now: (u16, u16) },
    /// The platform does not inject such an error.
    #[error("the platform does not inject this error into group {group}: {errno}")]
    NotInjected { group: Group, errno: Errno },
    /// DMA or interrupts of the device could not be stopped.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device does not answer.
    #[error(transparent)]
    Access(#[from] AccessError),
}

classify!(EehError {
    Device: Unavailable, NotRecovered, OtherDevice;
    Unsupported: NotInjected;
    inner: Pe.0, Device.0, Access.0;
});

/// An error to inject, with the numbers of the kernel's `EEH_ERR_TYPE_*` and `EEH_ERR_FUNC_*`
/// (`asm/eeh.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// A 64-bit error instead of a 32-bit one.
    pub wide: bool,
    /// Kind of error: 0 and 1 a load of memory, by address and by data; 4 and 5 a load of the
    /// configuration space; 6 and 7 a store to memory, 10 and 11 to the configuration space; others
    /// up to 19 are I/O ports and DMA.
    pub function: u32,
    /// Bus address that is to fail.
    pub address: u64,
    /// Bits of the address that count.
    pub mask: u64,
}

/// Error handling of one device's PE.
#[derive(Debug)]
pub struct Eeh<'a> {
    open: &'a OpenDevice,
    id: (u16, u16),
}

impl<'a> Eeh<'a> {
    pub(super) fn new(open: &'a OpenDevice, id: (u16, u16)) -> Self {
        Self { open, id }
    }

    /// Returns the state of the PE. The firmware may take a while to answer.
    pub fn state(&self) -> Result<PeState, EehError> {
        Ok(pe::state(&self.open.raw)?)
    }

    /// Lets loads and stores through again, to inspect a frozen device; DMA stays stopped. The
    /// device keeps its state: [`Self::recover`] resets it.
    pub fn unfreeze_io(&self) -> Result<(), EehError> {
        pe::operate(&self.open.raw, op::UNFREEZE_IO)?;
        // Writes to the command register were lost in the meantime.
        Ok(self.open.restore()?)
    }

    /// Lets DMA through again, after [`Self::unfreeze_io`]: the device continues where it was
    /// stopped, unless [`Device::stop_dma`](crate::device::Device::stop_dma) was called in between.
    pub fn unfreeze_dma(&self) -> Result<(), EehError> {
        pe::operate(&self.open.raw, op::UNFREEZE_DMA)?;
        Ok(())
    }

    /// Recovers a frozen device: disables interrupts, stops DMA, resets and configures the
    /// PE, and restores BARs. The device is then as after power-on and off the bus: enable
    /// interrupts, set it up, and start DMA.
    ///
    /// Takes seconds. Everything that was enabled or running stays off even if it fails. Other
    /// devices of the group are in the same PE and are reset with it, so inform their drivers.
    pub fn recover(&self) -> Result<(), EehError> {
        self.recover_within(TIMEOUT)
    }

    /// Does the same as [`Self::recover`], with another time limit for a PE that is unavailable.
    pub fn recover_within(&self, timeout: Duration) -> Result<(), EehError> {
        let (device, group) = (&self.open.raw, self.open.raw.group());
        // Check whether there is something to recover before turning anything off.
        self.state()?;
        self.open.disable_interrupts()?;
        self.open.stop_dma()?;
        let began = Instant::now();
        while self.state()? == PeState::Unavailable {
            if began.elapsed() >= timeout {
                return Err(EehError::Unavailable { group, waited: began.elapsed() });
            }
            std::thread::sleep(POLL_INTERVAL.min(timeout));
        }
        for step in [op::RESET_HOT, op::RESET_DEACTIVATE, op::CONFIGURE] {
            pe::operate(device, step)?;
        }
        match self.state()? {
            PeState::Normal => {}
            state => return Err(EehError::NotRecovered { group, state }),
        }
        self.open.restore()?;
        match self.open.present()? {
            now if now == self.id => Ok(()),
            now => Err(EehError::OtherDevice { device: Arc::clone(&self.open.address), was: self.id, now }),
        }
    }

    /// Makes the firmware inject an error, for tests.
    ///
    /// Linux checks the function (at most 19) and then asks the platform. pseries accepts loads and
    /// stores of memory only; powernv accepts what its PHB can do: under QEMU, powernv9 errors of
    /// the configuration space (4, 5, 10, 11), powernv8 also those of memory (0, 1, 6, 7) and of
    /// DMA (12 to 19), though no PE freezes for them there. Otherwise fails with
    /// [`EehError::NotInjected`].
    pub fn inject(&self, injection: Injection) -> Result<(), EehError> {
        let Injection { wide, function, address, mask } = injection;
        let error = PeErr { kind: wide.into(), func: function, addr: address, mask };
        pe::inject(&self.open.raw, error).map_err(|error| match &error {
            PeError::Call(call) => match call.errno() {
                Some(errno) => EehError::NotInjected { group: self.open.raw.group(), errno },
                None => error.into(),
            },
            _ => error.into(),
        })
    }
}
