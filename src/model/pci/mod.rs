//! Device models of one's own: a PCI device for the machine of a [`Model`](super::Model), so that
//! its driver runs on any computer.
//!
//! A device model implements [`DeviceModel`]: it says what it is ([`Description`]), answers
//! accesses to its registers, and reaches memory and interrupts through the [`Bus`] that each
//! access hands it. Everything else is the model's: the configuration space with its BARs and
//! capabilities, bus mastering, the MSI-X table, masks, eventfds, resets, the freezing of its PE.
//! `docs/device-model.md` builds a device and its driver on one page. [`Edu`](super::Edu),
//! [`Nvme`](super::Nvme) and [`E1000e`](super::E1000e) are device models too.
//!
//! ```
//! use spapr_iommu::model::pci::{Bus, Description, DeviceModel, Reset};
//! use spapr_iommu::{Dma, DmaMask, Group, device::Endian, model::Model};
//! use std::sync::Arc;
//!
//! /// One register that counts how often it was read.
//! #[derive(Clone, Debug, Default)]
//! struct Counter(u32);
//!
//! impl DeviceModel for Counter {
//!     fn description(&self) -> Description {
//!         Description::new(0x1234, 0xc007).bar(0, 4096)
//!     }
//!     fn read_bar(&mut self, _bar: u32, _offset: u64, data: &mut [u8], _bus: &mut Bus<'_>) {
//!         self.0 += 1;
//!         data.copy_from_slice(&self.0.to_le_bytes()[..data.len()]);
//!     }
//!     fn write_bar(&mut self, _bar: u32, _offset: u64, _data: &[u8], _bus: &mut Bus<'_>) {}
//!     fn reset(&mut self, _reset: Reset) {
//!         self.0 = 0;
//!     }
//!     fn fork(&self) -> Box<dyn DeviceModel> {
//!         Box::new(self.clone())
//!     }
//! }
//!
//! let model = Model::new("pseries-64k".parse()?).with_device(Group(0), Counter::default())?;
//! let dma = Dma::new(Arc::new(model));
//! let device = dma.open("0000:00:00.0".parse()?, DmaMask::ALL)?;
//! let bar = device.bar(0, Endian::Little)?;
//! assert_eq!((bar.read::<u32>(0)?, bar.read::<u16>(0)?), (1, 2));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # When a device works
//! A device has no thread. It works where it is called: in the access that starts the work, such as
//! a write to a doorbell, or in [`DeviceModel::step`], which
//! [`Model::step`](super::Model::step) runs. The same calls therefore always give the same result.
//! A device that does all of its work in the access needs no `step`; one that leaves work for it
//! shows a driver what real devices do, which take their time.
//!
//! # What a device model cannot do
//! Each call runs under the lock of the machine, so it must not block, and must not use the
//! [`Model`](super::Model) it is in: that panics with a message that says so.
//!
//! A panic in a device model does not reach the driver, which may be in the midst of dropping a
//! device. It is recorded as [`Violation::DevicePanicked`](super::Violation), and the device is
//! gone, as if it had been unplugged: it reads as ones, does no DMA and stays that way. The machine
//! and its other devices go on. (With `panic = "abort"` the process ends, as with any panic.)

mod bus;
mod config;
mod description;
mod slot;

pub use bus::{Bus, BusError, DeviceFault};
pub use description::{Description, DescriptionError};

pub(super) use config::is_virtual;
pub(super) use slot::{Slot, is_inside, region_size};

use core::fmt;
use core::ops::Range;

/// A PCI device of a [`Model`](super::Model).
///
/// The model calls it only for accesses that reach the device: inside a BAR, while memory decode is
/// on and the PE is not frozen. An access is 1, 2, 4 or 8 aligned bytes, as they lie in the BAR;
/// which of them is the lowest is the device's choice, for which `to_le_bytes` and `to_be_bytes`
/// serve.
pub trait DeviceModel: fmt::Debug + Send {
    /// Returns the device's description: IDs, BARs, interrupts, capabilities. Called once, when the
    /// device is put into the machine.
    fn description(&self) -> Description;

    /// Reads the register at `offset` bytes into a BAR. `data` is filled with zeros on entry.
    /// Offsets without a register should read as the device's manual says, usually as zeros.
    fn read_bar(&mut self, bar: u32, offset: u64, data: &mut [u8], bus: &mut Bus<'_>);

    /// Writes the register at `offset` bytes into a BAR.
    fn write_bar(&mut self, bar: u32, offset: u64, data: &[u8], bus: &mut Bus<'_>);

    /// Called after a driver wrote bytes of a capability of [`Description::capability`]; the
    /// configuration space already contains them. `bytes` are offsets in the configuration space.
    fn config_written(&mut self, bytes: Range<u64>, bus: &mut Bus<'_>) {
        let _ = (bytes, bus);
    }

    /// Does pending work and returns whether there was any. Called by
    /// [`Model::step`](super::Model::step).
    fn step(&mut self, bus: &mut Bus<'_>) -> bool {
        let _ = bus;
        false
    }

    /// Returns all registers to their initial values, and drops work in progress. Configuration
    /// space, bus mastering and interrupts are the model's: the pin is low afterwards.
    fn reset(&mut self, reset: Reset);

    /// Returns a copy for [`Model::fork`](super::Model::fork), which shares nothing that either
    /// changes: usually `Box::new(self.clone())`.
    fn fork(&self) -> Box<dyn DeviceModel>;
}

/// Why a device is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reset {
    /// The function alone: `VFIO_DEVICE_RESET`, and the close of its last file.
    Function,
    /// The bus, with all devices of the PE: a hot or fundamental reset by EEH.
    Bus,
}
