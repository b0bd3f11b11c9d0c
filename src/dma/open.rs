//! Opens a device: from its PCI address to a group in the space.

use super::{Dma, DmaError, DmaMask};
use crate::device::{Device, DeviceError};
use crate::error::classify;
use crate::pci::{Group, PciAddress};
use crate::space::AttachError;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Weak;

/// Why a device was not opened. Nothing has changed, except that windows may have been created for
/// groups that were attached before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum OpenError {
    /// There is no such device, or it is in no IOMMU group.
    #[error(
        "no IOMMU group has a device {address} (there are {}): give an address as `/sys/bus/pci/devices` has it",
        devices.join(", ")
    )]
    NoDevice { address: PciAddress, devices: Vec<String> },
    /// Its group cannot be used; the error names the obstacle and the remedy.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The device itself cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// It cannot reach memory.
    #[error(transparent)]
    Dma(#[from] DmaError),
}

classify!(OpenError { NotFound: NoDevice; inner: Attach.0, Device.0, Dma.0; });

/// An open device, as memory sees it.
#[derive(Debug)]
pub(super) struct DeviceEntry {
    address: String,
    mask: DmaMask,
    /// Whether it does DMA; dropped with the device.
    running: Weak<AtomicBool>,
}

/// The devices opened so far.
#[derive(Debug, Default)]
pub(super) struct Devices(Vec<DeviceEntry>);

impl Devices {
    pub(super) fn add(&mut self, device: DeviceEntry) {
        self.0.retain(|device| device.running.strong_count() > 0);
        self.0.push(device);
    }

    fn open(&self) -> impl Iterator<Item = &DeviceEntry> {
        self.0.iter().filter(|device| device.running.strong_count() > 0)
    }

    /// Returns the mask that all open devices reach; `None` without any.
    pub(super) fn mask(&self) -> Option<DmaMask> {
        self.open().map(|device| device.mask).min()
    }

    /// Returns how many are open.
    pub(super) fn count(&self) -> usize {
        self.open().count()
    }

    /// Returns the address of a device that does DMA.
    pub(super) fn running(&self) -> Option<String> {
        let runs =
            |device: &&DeviceEntry| device.running.upgrade().is_some_and(|running| running.load(Ordering::Acquire));
        self.open().find(runs).map(|device| device.address.clone())
    }
}

impl Dma {
    /// Opens a device by its PCI address; it must be bound to vfio-pci. Its
    /// group is attached, with its own container, and stays attached. `mask` limits the bus
    /// addresses the device can address: all memory allocated from now on is in reach of all open
    /// devices, so open those with the smallest mask first.
    pub fn open(&self, address: PciAddress, mask: DmaMask) -> Result<Device, OpenError> {
        let space = self.space();
        let groups = space.registry().host().groups();
        let name = address.to_string();
        let group = groups.iter().find(|group| group.devices.iter().any(|device| device.address == name));
        let Some(group) = group.map(|group| group.number) else {
            let devices = groups.into_iter().flat_map(|group| group.devices).map(|device| device.address);
            return Err(OpenError::NoDevice { address, devices: devices.collect() });
        };
        let _opening = self.0.opening.lock();
        let present = space.status().groups;
        if present.iter().any(|there| there.group == group) {
            return self.open_attached(group, address, mask);
        }
        if present.is_empty() {
            self.forget_windows();
        }
        space.attach(group)?;
        let opened = self.prepare(present.is_empty()).and_then(|()| self.open_attached(group, address, mask));
        // While it is attached, no one else can open the group.
        if opened.is_err()
            && let Err(error) = space.detach(group)
        {
            tracing::warn!(%error, %group, "a group stays attached although its device was not opened");
        }
        opened
    }

    /// Sets up the windows of a space that has its first group.
    fn prepare(&self, first: bool) -> Result<(), OpenError> {
        if first && !self.config().default_window {
            self.space().drop_default_window().map_err(DmaError::from)?;
        }
        Ok(())
    }

    fn open_attached(&self, group: Group, address: PciAddress, mask: DmaMask) -> Result<Device, OpenError> {
        let device = Device::open(self.space(), group, address)?;
        // Fails before the device is visible to others.
        self.reached_by(mask)?;
        let running = device.dma_state().downgrade();
        self.add(DeviceEntry { address: address.to_string(), mask, running });
        Ok(device)
    }
}
