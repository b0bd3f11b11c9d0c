//! What a device can reach: memory through the TCEs of its container, interrupts, its PE; and the
//! faults that a test gives it.

use super::slot::Slot;
use crate::addr::Iova;
use crate::error::classify;
use crate::host::Platform;
use crate::model::vfio::State;
use crate::uapi::eeh::state;
use core::fmt;

/// The bus of a device, for as long as one call of it runs.
pub struct Bus<'a> {
    pub(super) state: &'a mut State,
    pub(super) group: u32,
    pub(super) index: usize,
}

impl fmt::Debug for Bus<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bus(device {} of group {})", self.index, self.group)
    }
}

/// Why a transfer did not happen, or only in part. A device usually ends the command with an error
/// of its own, or, for [`Self::Stuck`], leaves it unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[non_exhaustive]
pub enum BusError {
    /// The driver has not turned bus mastering on. Nothing was moved.
    #[error("bus mastering is off")]
    NotMaster,
    /// A test has made the device's DMA stick ([`DeviceFault::StuckDma`]). Nothing was moved;
    /// try again at the next access or step.
    #[error("the transfer does not end")]
    Stuck,
    /// The device's PE is frozen. Reads give zeros.
    #[error("the PE is frozen")]
    Frozen,
    /// No TCE allows the access from this address on. The parts that are allowed were moved; reads
    /// give zeros elsewhere. The access is recorded as
    /// [`Violation::DeviceDma`](crate::model::Violation::DeviceDma), and a machine that freezes PEs
    /// has frozen this one.
    #[error("no TCE allows the access at {at}")]
    Refused {
        /// The first address that is not allowed.
        at: Iova,
    },
}

classify!(BusError {
    Busy: NotMaster, Stuck;
    Device: Frozen, Refused;
});

impl Bus<'_> {
    fn slot(&self) -> Option<&Slot> {
        Some(&self.state.kernel.groups.get(&self.group)?.devices.get(self.index)?.slot)
    }

    fn slot_mut(&mut self) -> Option<&mut Slot> {
        Some(&mut self.state.kernel.groups.get_mut(&self.group)?.devices.get_mut(self.index)?.slot)
    }

    fn check(&self) -> Result<(), BusError> {
        match self.slot() {
            Some(slot) if slot.fault == Some(DeviceFault::StuckDma) => Err(BusError::Stuck),
            Some(slot) if slot.config.is_master() => Ok(()),
            _ => Err(BusError::NotMaster),
        }
    }

    /// Reads memory at a bus address, page by page through the TCEs.
    pub fn read(&mut self, iova: Iova, data: &mut [u8]) -> Result<(), BusError> {
        self.check()?;
        self.state.dma_read(self.group, self.index, iova, data)
    }

    /// Writes memory at a bus address, page by page through the TCEs.
    pub fn write(&mut self, iova: Iova, data: &[u8]) -> Result<(), BusError> {
        self.check()?;
        self.state.dma_write(self.group, self.index, iova, data)
    }

    /// Returns whether the driver lets the device use the bus.
    pub fn is_master(&self) -> bool {
        self.slot().is_some_and(|slot| slot.config.is_master())
    }

    /// Asserts or releases the interrupt pin. A driver that uses INTx is interrupted for as long as
    /// it is asserted, each time it lets the interrupt fire again.
    pub fn set_intx(&mut self, asserted: bool) {
        if let Some(slot) = self.slot_mut() {
            slot.set_pin(asserted);
        }
    }

    /// Sends the message of a vector, by MSI or MSI-X, whichever the driver has enabled. Returns
    /// whether it arrived: it does not if the vector is not enabled, bus mastering is off, or the
    /// PE is frozen.
    pub fn message(&mut self, vector: u32) -> bool {
        let running = self.state.kernel.groups.get(&self.group).is_some_and(|group| group.eeh_state == state::NORMAL);
        self.check().is_ok() && running && self.slot().is_some_and(|slot| slot.message(vector))
    }

    /// Returns the number of vectors of MSI or MSI-X that the driver has enabled; with 0, a device
    /// uses its pin.
    pub fn messages(&self) -> u32 {
        self.slot().map_or(0, |slot| slot.irqs.messages())
    }

    /// Freezes the device's PE on purpose, as the host bridge does for an error of the bus: from
    /// now on loads give ones, stores are lost, and there is no DMA until the driver recovers it.
    /// Returns whether the machine has EEH; emulated devices of pseries have none.
    pub fn freeze(&mut self) -> bool {
        let powernv = self.state.kernel.preset.platform() == Platform::Powernv;
        let group = self.state.kernel.groups.get_mut(&self.group).filter(|_| powernv);
        group.map(|group| group.eeh_state = state::STOPPED).is_some()
    }

    /// Returns a byte of the configuration space; ones past its end.
    pub fn config(&self, offset: u64) -> u8 {
        let mut byte = [0xff];
        if let Some(slot) = self.slot() {
            // Nothing is read past the end.
            let _ = slot.config.read(offset, &mut byte);
        }
        byte[0]
    }

    /// Changes a byte of a capability of [`Description::capability`](super::Description), which the
    /// driver then reads. Returns whether there is one at that offset of the configuration space.
    pub fn set_config(&mut self, offset: u64, byte: u8) -> bool {
        self.slot_mut().is_some_and(|slot| slot.config.set_own(offset, byte))
    }
}

/// A fault of a device that a test provokes with
/// [`Model::set_fault`](crate::model::Model::set_fault). It works on any device model and lasts
/// until it is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceFault {
    /// Transfers do not end: [`Bus::read`] and [`Bus::write`]
    /// fail with [`BusError::Stuck`] and move nothing, and no message
    /// arrives. Commands of a driver are not answered.
    StuckDma,
    /// Every read of a BAR gives ones and every write is lost, while the configuration space
    /// answers: a device whose inside hangs. Nothing reports it, so a driver gets the ones as
    /// values. For a device that is gone see [`Model::unplug`](crate::model::Model::unplug).
    AllOnes,
    /// Interrupts without cause: the pin stays asserted, and each access to a BAR and each
    /// [`step`](crate::model::Model::step) sends a message on every enabled vector.
    InterruptStorm,
}
