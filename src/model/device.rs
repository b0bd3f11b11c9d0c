//! A device's file: device information, and access to its regions.

use super::edu::{self, BAR_SIZE, CONFIG_SIZE, Edu};
use super::group::Device;
use super::irq;
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
        // A function alone on its bus is reset with the bus; on pseries that is the root bus, which
        // cannot be reset.
        let resets = self.kernel.preset.platform() == Platform::Powernv;
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
                (info.size, info.flags) = match info.index {
                    vfio::PCI_BAR0_REGION_INDEX => (BAR_SIZE, access | vfio::REGION_INFO_FLAG_MMAP),
                    vfio::PCI_CONFIG_REGION_INDEX => (CONFIG_SIZE, access),
                    _ => (0, 0),
                };
                info.offset = u64::from(info.index) << 40;
                Ok(0)
            }
            Call::DeviceGetIrqInfo(info) => irq::info(info),
            // After the device is gone, the reset is not supported.
            Call::DeviceReset if self.gone(group) => Err(Errno::ENOTTY),
            Call::DeviceReset if resets => {
                self.edu(group, index)?.reset();
                Ok(0)
            }
            Call::DeviceReset => Err(Errno::EINVAL),
            _ => Err(Errno::ENOTTY),
        }
    }

    /// `VFIO_DEVICE_SET_IRQS`.
    pub(super) fn set_irqs(&mut self, fd: Fd, set: &IrqSet, eventfds: &[Option<BorrowedFd<'_>>]) -> Result {
        let (group, index) = self.device(fd)?;
        let group = self.kernel.groups.get_mut(&group).ok_or(Errno::ENODEV)?;
        let device = group.devices.get_mut(index).ok_or(Errno::ENODEV)?;
        let line = device.edu.asserts();
        device.irqs.set(set, eventfds, line)
    }

    fn edu(&mut self, group: u32, index: usize) -> Result<&mut Edu> {
        let group = self.kernel.groups.get_mut(&group).ok_or(Errno::ENODEV)?;
        group.devices.get_mut(index).map(|device| &mut device.edu).ok_or(Errno::ENODEV)
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
    fn stopped(&self, group: u32) -> bool {
        let group = self.kernel.groups.get(&group);
        group.is_some_and(|group| group.gone || matches!(group.eeh_state, STOPPED | RESET))
    }

    /// Delivers the interrupt the device raised to user space.
    fn interrupt(&mut self, group: u32, index: usize) {
        let device = self.kernel.groups.get_mut(&group).and_then(|group| group.devices.get_mut(index));
        let Some(Device { edu, irqs, .. }) = device else { return };
        // A message is a write to memory.
        if edu.take_raised() && edu.is_master() {
            irqs.message();
        }
        irqs.level(edu.asserts());
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
        let mut state = shared.lock();
        state.device(device)?;
        let size = match index {
            vfio::PCI_BAR0_REGION_INDEX => BAR_SIZE,
            vfio::PCI_CONFIG_REGION_INDEX => CONFIG_SIZE,
            index if index < VGA => return Err(Errno::ENXIO),
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
        self.state.lock().close(self.device);
    }
}

impl Region for DeviceRegion {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        self.check(offset, data.len())?;
        let mut state = self.state.lock();
        let (group, index) = state.device(self.device)?;
        let stopped = state.stopped(group);
        let edu = state.edu(group, index)?;
        if self.index == vfio::PCI_CONFIG_REGION_INDEX {
            edu.read_config(offset, data)?;
        } else {
            for (at, piece) in pieces(offset, data.len()) {
                edu.read_bar(at, &mut data[piece])?;
            }
        }
        if stopped {
            let physical = |at: &u64| self.index != vfio::PCI_CONFIG_REGION_INDEX || !edu::is_virtual(*at);
            let ones = (offset..).zip(data).filter(|(at, _)| physical(at));
            ones.for_each(|(_, byte)| *byte = 0xff);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check(offset, data.len())?;
        let mut state = self.state.lock();
        let (group, index) = state.device(self.device)?;
        if state.stopped(group) {
            return Ok(());
        }
        if self.index == vfio::PCI_CONFIG_REGION_INDEX {
            return state.edu(group, index)?.write_config(offset, data);
        }
        for (at, piece) in pieces(offset, data.len()) {
            if let Some(transfer) = state.edu(group, index)?.write_bar(at, &data[piece])? {
                state.transfer(group, index, transfer);
            }
            state.interrupt(group, index);
        }
        Ok(())
    }
}
