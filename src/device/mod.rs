//! A PCI device for a driver in user space: registers, configuration space, bus mastering,
//! interrupts, reset.
//!
//! [`Device::open`] lets the device answer and keeps it off the bus; [`Device::start_dma`] puts it
//! there. When the device is dropped, also while a panic unwinds and also while its BARs are still
//! held, it is taken off the bus and its interrupts are disabled, so that nothing it does can reach
//! memory that goes next. A child of `fork` that drops its copy changes nothing: the device stays
//! its parent's.
//!
//! ```
//! use spapr_iommu::device::{Device, Endian, InterruptKind};
//! use spapr_iommu::model::Model;
//! use spapr_iommu::pci::Group;
//! use spapr_iommu::registry::Registry;
//! use spapr_iommu::space::AddressSpace;
//! use std::{sync::Arc, time::Duration};
//!
//! let space = AddressSpace::new(&Registry::new(Arc::new(Model::new("powernv9".parse()?))));
//! space.attach(Group(0))?;
//! // QEMU's `edu`; on POWER machines its registers are big endian.
//! let device = Device::open(&space, Group(0), "0000:00:00.0".parse()?)?;
//! assert_eq!(device.id(), (0x1234, 0x11e8));
//! let registers = device.bar(0, Endian::Big)?;
//! assert_eq!(registers.read::<u32>(0x00)?, 0x0100_00ed);
//!
//! // Have it compute a factorial, and interrupt when it is done.
//! let interrupts = device.enable_interrupts(InterruptKind::Intx, 1)?;
//! registers.write(0x20, 0x80u32)?;
//! registers.write(0x08, 5u32)?;
//! assert!(interrupts[0].wait(Some(Duration::from_secs(1)))?);
//! assert_eq!(registers.read::<u32>(0x08)?, 120);
//! // Acknowledge, then let the interrupt come again.
//! registers.write(0x64, registers.read::<u32>(0x24)?)?;
//! interrupts[0].rearm()?;
//!
//! // Wrong use gives an error, not a crash.
//! assert!(registers.read::<u32>(0x02).is_err(), "not aligned");
//! assert!(device.config().write(4, 0u16).is_err(), "nobody turns memory decode off");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod config;
pub mod eeh;
mod error;
mod interrupt;
mod kind;
mod open;
mod pe;
mod register;

pub use config::Config;
pub use error::{AccessError, DeviceError};
pub use interrupt::{ForwardedInterrupts, Interrupt};
pub use kind::{InterruptInfo, InterruptKind};
pub use open::{Bar, DmaState};
pub use register::{Endian, RegisterValue};

use crate::host::{Errno, RegionArea};
use crate::pci::{Group, PciAddress};
use crate::space::{AddressSpace, DeviceArea, Driven};
use crate::uapi::vfio::{DEVICE_FLAGS_PCI, DEVICE_FLAGS_RESET, PCI_BAR0_REGION_INDEX, PCI_CONFIG_REGION_INDEX};
use core::fmt;
use eeh::Eeh;
use open::OpenDevice;
use register::{Access, BARS, CONFIG};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// A device opened for a driver: once at a time for each device in an address space.
///
/// The space, and the group in it, stay while it, a [`Bar`] or an [`Interrupt`] of it is held.
pub struct Device {
    open: Arc<OpenDevice>,
    address: PciAddress,
    id: (u16, u16),
    /// Whether the kernel can reset it.
    resets: bool,
    _driven: Driven,
}

impl Device {
    /// Opens a device of an attached group by its PCI address. Its BARs answer, and it does no DMA.
    pub fn open(space: &AddressSpace, group: Group, address: PciAddress) -> Result<Self, DeviceError> {
        let name: Arc<str> = address.to_string().into();
        // Checked first: opening takes the device off the bus.
        let driven = space.drive(&name).ok_or_else(|| DeviceError::OpenAlready { device: Arc::clone(&name) })?;
        let device = space.driven_device(group, &driven)?;
        let info = device.info()?;
        if info.flags & DEVICE_FLAGS_PCI == 0 {
            return Err(DeviceError::NotPci { device: name });
        }
        let region = device.region(PCI_CONFIG_REGION_INDEX);
        let region = region.map_err(|errno| DeviceError::Region { device: name.clone(), region: CONFIG, errno })?;
        let config = Config::open(Access { region, device: Arc::clone(&name), name: CONFIG })?;
        let id = config.id()?;
        let open = Arc::new(OpenDevice::new(device, name, config));
        if !open.config.answers() {
            open.check()?;
        }
        open.config.take_over()?;
        Ok(Self { open, address, id, resets: info.flags & DEVICE_FLAGS_RESET != 0, _driven: driven })
    }

    /// Returns its PCI address.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// Returns vendor and device ID.
    pub fn id(&self) -> (u16, u16) {
        self.id
    }

    /// Returns its group.
    pub fn group(&self) -> Group {
        self.open.raw.group()
    }

    /// Returns its configuration space.
    pub fn config(&self) -> &Config {
        &self.open.config
    }

    /// Opens BAR 0 to 5, with the byte order of its registers.
    pub fn bar(&self, index: u32, endian: Endian) -> Result<Bar, DeviceError> {
        let name = BARS.get(index as usize).copied();
        let Some(name) = name.filter(|_| !matches!(self.has_bar(index), Ok(false))) else {
            return Err(self.no_bar(index)?);
        };
        let region = self.open.raw.region(PCI_BAR0_REGION_INDEX + index);
        let region = region.map_err(|errno| self.region_failed(name, errno))?;
        let access = Access { region, device: Arc::clone(&self.open.address), name };
        Ok(Bar { access, endian, open: Arc::clone(&self.open) })
    }

    /// Sets the bus master bit, which lets the device read and write memory and send MSI and MSI-X.
    pub fn start_dma(&self) -> Result<(), DeviceError> {
        self.open.start_dma()
    }

    /// Takes the device off the bus; its transfers in progress have arrived when this returns.
    pub fn stop_dma(&self) -> Result<(), DeviceError> {
        self.open.stop_dma()
    }

    /// Returns whether the device may use the bus.
    pub fn is_dma_on(&self) -> bool {
        self.open.dma.is_on()
    }

    /// Returns the same as a handle to keep elsewhere. It turns off when the device is dropped; if
    /// the kernel refuses that, it stays on.
    pub fn dma_state(&self) -> DmaState {
        self.open.dma.clone()
    }

    /// Resets the device (`VFIO_DEVICE_RESET`), which is off the bus afterwards. Registers are as
    /// after power-on, and the kernel restores the configuration space; interrupts stay enabled on
    /// the kernel's side.
    ///
    /// Fails with [`DeviceError::NoReset`] if the kernel has no way to reset this device alone.
    pub fn reset(&self) -> Result<(), DeviceError> {
        if !self.resets {
            return Err(DeviceError::NoReset { device: Arc::clone(&self.open.address) });
        }
        // The kernel restores what it finds, so bus mastering must be off before.
        self.stop_dma()?;
        self.open.raw.reset()?;
        Ok(self.open.restore()?)
    }

    /// Returns how many interrupts of a kind the device has; [`DeviceError::NoInterrupt`] if none.
    pub fn interrupts(&self, kind: InterruptKind) -> Result<InterruptInfo, DeviceError> {
        interrupt::info(&self.open, kind)
    }

    /// Enables the first `count` interrupts of a kind, all at once: none can be added later. They
    /// are disabled when all of them are dropped, or the device is.
    pub fn enable_interrupts(&self, kind: InterruptKind, count: u32) -> Result<Vec<Interrupt>, DeviceError> {
        interrupt::enable(&self.open, kind, count)
    }

    /// Enables the first interrupts of a kind, one for each of `eventfds`, which the kernel
    /// signals: such as eventfds that KVM turns into interrupts of a guest. The kernel keeps them
    /// open.
    pub fn forward_interrupts(
        &self,
        kind: InterruptKind,
        eventfds: &[BorrowedFd<'_>],
    ) -> Result<ForwardedInterrupts, DeviceError> {
        interrupt::forward(&self.open, kind, eventfds)
    }

    /// Returns the device's file, for interfaces of the kernel that take it; `None` on a model,
    /// which has no files.
    ///
    /// Writes to the file bypass the guards of this library: after one that turns memory decode
    /// off, the next access to a BAR ends the process.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.open.raw.file()
    }

    /// Returns the parts of BAR 0 to 5 that can be mapped into the process, as memory slots of KVM
    /// need it. Empty on a model, and for a BAR that the device does not have.
    pub fn bar_areas(&self, index: u32) -> Result<Vec<RegionArea>, DeviceError> {
        let name = self.bar_name(index)?;
        self.open.raw.areas(PCI_BAR0_REGION_INDEX + index).map_err(|errno| self.region_failed(name, errno))
    }

    /// Maps one of the [`bar_areas`](Self::bar_areas).
    pub fn map_bar_area(&self, index: u32, area: RegionArea) -> Result<DeviceArea, DeviceError> {
        let name = self.bar_name(index)?;
        let mapped = self.open.raw.map_area(PCI_BAR0_REGION_INDEX + index, area);
        mapped.map_err(|errno| self.region_failed(name, errno))
    }

    fn bar_name(&self, index: u32) -> Result<&'static str, DeviceError> {
        match BARS.get(index as usize) {
            Some(name) => Ok(name),
            None => Err(self.no_bar(index)?),
        }
    }

    fn has_bar(&self, index: u32) -> Result<bool, DeviceError> {
        Ok(self.open.raw.region_info(PCI_BAR0_REGION_INDEX + index)?.size > 0)
    }

    /// Returns the error that names the BARs the device has.
    fn no_bar(&self, index: u32) -> Result<DeviceError, DeviceError> {
        let mut present = Vec::new();
        for other in 0..BARS.len() as u32 {
            if self.has_bar(other)? {
                present.push(other);
            }
        }
        Ok(DeviceError::NoBar { device: Arc::clone(&self.open.address), index, present })
    }

    fn region_failed(&self, region: &'static str, errno: Errno) -> DeviceError {
        DeviceError::Region { device: Arc::clone(&self.open.address), region, errno }
    }

    /// Returns the error handling of the device's PE.
    pub fn eeh(&self) -> Eeh<'_> {
        Eeh::new(&self.open, self.id)
    }
}

/// Without the device's parts, which refer to a whole host.
impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (vendor, device) = self.id;
        let dma = if self.is_dma_on() { "on" } else { "off" };
        let (address, group) = (self.address(), self.group());
        write!(f, "Device({address} {vendor:04x}:{device:04x} of group {group}, DMA {dma})")
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if !self.open.process.is_current() {
            return;
        }
        let address = &self.open.address;
        if let Err(error) = self.open.stop_dma() {
            tracing::warn!(device = %address, %error, "the device may still use the bus until its file is closed");
        }
        if let Err(error) = self.open.disable_interrupts() {
            tracing::warn!(device = %address, %error, "interrupts stay enabled until the device's file is closed");
        }
    }
}
