//! Devices: registers, bus mastering, reset.
#![allow(unsafe_code, reason = "exports functions")]

use crate::pointer::string;
use crate::space::Space;
use crate::status::{Failure, Status, call, free, required, value};
use core::ffi::c_char;
use core::mem::MaybeUninit;
use spapr_iommu::Group;
use spapr_iommu::device::{self, Endian};
use std::os::fd::AsRawFd;

/// An open device. It keeps its address space.
pub struct Device(pub(crate) device::Device);

/// A BAR of a device, which it keeps open.
pub struct Bar(device::Bar);

/// Registers with the low byte first, as nearly all PCI devices have them.
pub const SPAPR_IOMMU_LITTLE_ENDIAN: u32 = 0;
/// Registers with the high byte first.
pub const SPAPR_IOMMU_BIG_ENDIAN: u32 = 1;

/// Opens a device of an attached group by its PCI address. Its BARs answer, and it does no DMA.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_device_open(
    space: Option<&Space>,
    group: u32,
    address: *const c_char,
    device: Option<&mut MaybeUninit<Option<Box<Device>>>>,
) -> Status {
    call(|| {
        let place = required(device, "device")?.write(None);
        let space = required(space, "space")?;
        // SAFETY: a C string, as the header requires.
        let address = unsafe { string(address, "address") }?.parse()?;
        *place = Some(Box::new(Device(device::Device::open(&space.0, Group(group), address)?)));
        Ok(())
    })
}

/// Takes the device off the bus and frees it.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_device_free(device: Option<Box<Device>>) {
    free(device);
}

/// Lets the device read and write memory, and send messages.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_device_start_dma(device: Option<&Device>) -> Status {
    call(|| Ok(required(device, "device")?.0.start_dma()?))
}

/// Takes the device off the bus. What it had under way has arrived when this returns.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_device_stop_dma(device: Option<&Device>) -> Status {
    call(|| Ok(required(device, "device")?.0.stop_dma()?))
}

/// Resets the device, which is off the bus afterwards.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_device_reset(device: Option<&Device>) -> Status {
    call(|| Ok(required(device, "device")?.0.reset()?))
}

/// Returns the device's VFIO file, for other interfaces of the kernel; -1 on a model, which has no
/// files, and for NULL. It stays the library's: do not close it, and do not turn memory decode off
/// by it.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_device_file(device: Option<&Device>) -> i32 {
    value(-1, || device.and_then(|device| device.0.file().map(|file| file.as_raw_fd())).unwrap_or(-1))
}

/// Opens BAR 0 to 5. `endian` is SPAPR_IOMMU_LITTLE_ENDIAN or SPAPR_IOMMU_BIG_ENDIAN.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_bar_open(
    device: Option<&Device>,
    index: u32,
    endian: u32,
    bar: Option<&mut MaybeUninit<Option<Box<Bar>>>>,
) -> Status {
    call(|| {
        let place = required(bar, "bar")?.write(None);
        let device = required(device, "device")?;
        let endian = match endian {
            SPAPR_IOMMU_LITTLE_ENDIAN => Endian::Little,
            SPAPR_IOMMU_BIG_ENDIAN => Endian::Big,
            _ => {
                return Err(Failure::argument(
                    "endian",
                    format!("{endian} is not a byte order: 0 is little, 1 is big"),
                ));
            }
        };
        *place = Some(Box::new(Bar(device.0.bar(index, endian)?)));
        Ok(())
    })
}

/// Frees a BAR.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_bar_free(bar: Option<Box<Bar>>) {
    free(bar);
}

fn width(bytes: u32) -> Failure {
    Failure::argument("width", format!("no register has {bytes} bytes: 1, 2, 4 or 8"))
}

/// Reads the register of `width` bytes, 1, 2, 4 or 8, at `offset`: one access, ordered with memory.
/// If all bits are ones, the device is checked: SPAPR_IOMMU_DEVICE if it is frozen or gone.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_bar_read(
    bar: Option<&Bar>,
    offset: u64,
    width: u32,
    value: Option<&mut MaybeUninit<u64>>,
) -> Status {
    call(|| {
        let (bar, place) = (&required(bar, "bar")?.0, required(value, "value")?);
        place.write(match width {
            1 => bar.read::<u8>(offset)?.into(),
            2 => bar.read::<u16>(offset)?.into(),
            4 => bar.read::<u32>(offset)?.into(),
            8 => bar.read::<u64>(offset)?,
            _ => return Err(self::width(width)),
        });
        Ok(())
    })
}

/// Writes the register of `width` bytes, 1, 2, 4 or 8, at `offset`. `value` must fit.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_bar_write(bar: Option<&Bar>, offset: u64, width: u32, value: u64) -> Status {
    call(|| {
        let bar = &required(bar, "bar")?.0;
        let wide = || Failure::argument("width", format!("{value:#x} does not fit a register of {width} bytes"));
        match width {
            1 => bar.write(offset, u8::try_from(value).map_err(|_| wide())?)?,
            2 => bar.write(offset, u16::try_from(value).map_err(|_| wide())?)?,
            4 => bar.write(offset, u32::try_from(value).map_err(|_| wide())?)?,
            8 => bar.write(offset, value)?,
            _ => return Err(self::width(width)),
        }
        Ok(())
    })
}
