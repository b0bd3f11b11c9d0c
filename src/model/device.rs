//! A device's file: device information, and access to its regions.

use super::irq;
use super::lock;
use super::pci::{Reset, Slot, is_virtual, region_size};
use super::spapr_tce::Result;
use super::vfio::{File, State};
use crate::host::pieces;
use crate::host::{Call, Errno, Fd, Platform, Region};
use crate::uapi::eeh::state::{RESET, STOPPED};
use crate::uapi::vfio;
use crate::uapi::vfio::IrqSet;
use parking_lot::Mutex;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Regions of a PCI device.
const REGIONS: u32 = 9;
/// The VGA region, which only VGA devices have.
const VGA: u32 = 8;
/// `struct vfio_device_info` up to its capability offset.
const INFO_SIZE: u32 = 16;

impl State {
    pub(super) fn device_call(&mut self, group: u32, index: usize, call: &mut Call) -> Result {
        // A function that cannot be reset by itself is reset with its bus if it is alone there; on
        // pseries that is the root bus, which cannot be reset.
        let powernv = self.kernel.preset.platform() == Platform::Powernv;
        let slot = self.kernel.slot_mut(group, index).ok_or(Errno::ENODEV)?;
        let resets = powernv || slot.description.express;
        match call {
            Call::DeviceGetInfo(info) => {
                if info.argsz < INFO_SIZE {
                    return Err(Errno::EINVAL);
                }
                info.flags = vfio::DEVICE_FLAGS_PCI | if resets { vfio::DEVICE_FLAGS_RESET } else { 0 };
                (info.num_regions, info.num_irqs) = (REGIONS, irq::INDICES);
                Ok(0)
            }
            Call::DeviceGetRegionInfo(info) => {
                if (info.argsz as usize) < size_of::<vfio::RegionInfo>() || info.index >= VGA {
                    return Err(Errno::EINVAL);
                }
                let access = vfio::REGION_INFO_FLAG_READ | vfio::REGION_INFO_FLAG_WRITE;
                (info.size, info.flags) = match (info.index, region_size(slot, info.index)) {
                    (vfio::PCI_CONFIG_REGION_INDEX, _) => (slot.config.size(), access),
                    (_, 0) => (0, 0),
                    (_, size) => (size, access | vfio::REGION_INFO_FLAG_MMAP),
                };
                info.offset = u64::from(info.index) << 40;
                Ok(0)
            }
            Call::DeviceGetIrqInfo(info) => slot.irqs.info(info),
            // After the device was unplugged, the reset is not supported.
            Call::DeviceReset if self.gone(group) => Err(Errno::ENOTTY),
            Call::DeviceReset if resets => {
                self.kernel.reset_device(group, index, Reset::Function);
                Ok(0)
            }
            Call::DeviceReset => Err(Errno::EINVAL),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// `VFIO_DEVICE_SET_IRQS`.
    pub(super) fn set_irqs(&mut self, fd: Fd, set: &IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result {
        let (group, index) = self.device(fd)?;
        let refills = self.kernel.refills_msix();
        let slot = self.kernel.slot_mut(group, index).ok_or(Errno::ENODEV)?;
        let line = slot.line();
        let result = slot.irqs.set(set, eventfds, line)?;
        slot.interrupts_changed(refills);
        Ok(result)
    }

    fn device(&self, fd: Fd) -> Result<(u32, usize)> {
        match self.file(fd)? {
            File::Device { group, index } => Ok((group, index)),
            _ => Err(Errno::ENOTTY),
        }
    }

    fn gone(&self, group: u32) -> bool {
        self.kernel.groups.get(&group).is_some_and(|group| group.gone)
    }

    /// Returns whether loads from the device fail: it is gone, or its PE is frozen or in reset.
    pub(super) fn stopped(&self, group: u32, index: usize) -> bool {
        let Some(group) = self.kernel.groups.get(&group) else { return true };
        let failed = group.devices.get(index).is_none_or(|device| device.slot.failed());
        failed || group.gone || matches!(group.eeh_state, STOPPED | RESET)
    }
}

/// One region of a device. It holds the device's file, as a mapping does, so the group cannot leave
/// its container meanwhile.
pub(super) struct DeviceRegion {
    state: Arc<Mutex<State>>,
    device: Fd,
    index: u32,
    size: u64,
}

impl DeviceRegion {
    pub(super) fn open(shared: &Arc<Mutex<State>>, device: Fd, index: u32) -> Result<Self> {
        let mut state = lock(shared);
        let (group, number) = state.device(device)?;
        let slot: &Slot = state.kernel.slot_mut(group, number).ok_or(Errno::ENODEV)?;
        let size = match index {
            vfio::PCI_CONFIG_REGION_INDEX => slot.config.size(),
            index if index < VGA => Some(region_size(slot, index)).filter(|size| *size > 0).ok_or(Errno::ENXIO)?,
            _ => return Err(Errno::EINVAL),
        };
        let device = state.duplicate(device)?;
        Ok(Self { state: Arc::clone(shared), device, index, size })
    }

    fn check(&self, offset: u64, len: usize) -> Result<()> {
        let end = offset.checked_add(len as u64);
        if end.is_some_and(|end| end <= self.size) { Ok(()) } else { Err(Errno::EINVAL) }
    }
}

impl Drop for DeviceRegion {
    fn drop(&mut self) {
        lock(&self.state).close(self.device);
    }
}

impl Region for DeviceRegion {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        self.check(offset, data.len())?;
        let mut state = lock(&self.state);
        let (group, index) = state.device(self.device)?;
        let stopped = state.stopped(group, index);
        if self.index != vfio::PCI_CONFIG_REGION_INDEX {
            return pieces(offset, data.len())
                .try_for_each(|(at, piece)| state.bar_read((group, index), self.index, at, &mut data[piece], stopped));
        }
        state.config_read(group, index, offset, data)?;
        if stopped {
            let physical = (offset..).zip(data).filter(|(at, _)| !is_virtual(*at));
            physical.for_each(|(_, byte)| *byte = 0xff);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len())?;
        let mut state = lock(&self.state);
        let (group, index) = state.device(self.device)?;
        if state.stopped(group, index) {
            return Ok(());
        }
        if self.index == vfio::PCI_CONFIG_REGION_INDEX {
            return state.config_write(group, index, offset, data);
        }
        pieces(offset, data.len())
            .try_for_each(|(at, piece)| state.bar_write((group, index), self.index, at, &data[piece]))
    }
}
