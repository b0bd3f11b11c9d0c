//! Interrupts of a device, on the eventfds of the caller.
#![allow(unsafe_code, reason = "exports functions")]

use crate::device::Device;
use crate::pointer::{array, file};
use crate::status::{Failure, Status, call, free, required};
use core::mem::MaybeUninit;
use spapr_iommu::device::{ForwardedInterrupts, InterruptKind};

/// The enabled interrupts of one kind. They keep the device's file open.
pub struct Interrupts(ForwardedInterrupts);

/// Kind of interrupts: the pin.
pub const SPAPR_IOMMU_INTX: u32 = 0;
/// Kind of interrupts: messages.
pub const SPAPR_IOMMU_MSI: u32 = 1;
/// Kind of interrupts: messages of MSI-X.
pub const SPAPR_IOMMU_MSIX: u32 = 2;

fn kind(number: u32) -> Result<InterruptKind, Failure> {
    match number {
        SPAPR_IOMMU_INTX => Ok(InterruptKind::Intx),
        SPAPR_IOMMU_MSI => Ok(InterruptKind::Msi),
        SPAPR_IOMMU_MSIX => Ok(InterruptKind::Msix),
        _ => Err(Failure::argument("interrupt-kind", format!("there is no kind {number} of interrupts"))),
    }
}

/// Returns in `count` how many interrupts of a kind the device has. SPAPR_IOMMU_NOT_FOUND if none.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_device_interrupts(
    device: Option<&Device>,
    kind: u32,
    count: Option<&mut MaybeUninit<u32>>,
) -> Status {
    call(|| {
        let (device, place) = (required(device, "device")?, required(count, "count")?);
        place.write(device.0.interrupts(self::kind(kind)?)?.count);
        Ok(())
    })
}

/// Enables the first `count` interrupts of a kind, all at once: each signals its eventfd, such as
/// one that KVM turns into an interrupt of a guest. The kernel keeps the eventfds open. They are
/// disabled when the handle or the device is freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spapr_iommu_interrupts_enable(
    device: Option<&Device>,
    kind: u32,
    eventfds: *const i32,
    count: usize,
    interrupts: Option<&mut MaybeUninit<Option<Box<Interrupts>>>>,
) -> Status {
    call(|| {
        let place = required(interrupts, "interrupts")?.write(None);
        let device = required(device, "device")?;
        // SAFETY: an array of that length, as the header requires.
        let eventfds = unsafe { array(eventfds, count, "eventfds") }?;
        // SAFETY: open files, as the header requires.
        let files = eventfds.iter().map(|fd| unsafe { file(*fd, "an eventfd") }).collect::<Result<Vec<_>, _>>()?;
        *place = Some(Box::new(Interrupts(device.0.forward_interrupts(self::kind(kind)?, &files)?)));
        Ok(())
    })
}

/// Lets INTx fire again, after the device has deasserted its pin. Messages do not need it.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_interrupts_rearm(interrupts: Option<&Interrupts>) -> Status {
    call(|| Ok(required(interrupts, "interrupts")?.0.rearm()?))
}

/// Has the kernel do this whenever `eventfd` is signalled, as KVM does at the guest's end of
/// interrupt (resamplefd). For INTx only.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_interrupts_rearm_by(interrupts: Option<&Interrupts>, eventfd: i32) -> Status {
    call(|| {
        let interrupts = required(interrupts, "interrupts")?;
        // SAFETY: an open file, as the header requires.
        Ok(interrupts.0.rearm_by(unsafe { file(eventfd, "eventfd") }?)?)
    })
}

/// Disables the interrupts.
#[unsafe(no_mangle)]
pub extern "C" fn spapr_iommu_interrupts_free(interrupts: Option<Box<Interrupts>>) {
    free(interrupts);
}
