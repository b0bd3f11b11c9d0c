//! A child of `fork` that drops its copies of everything leaves the device on the bus, and all
//! memory registered and mapped.

use crate::device::{Fixture, ensure};
use libtest_mimic::Failed;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use spapr_iommu::device::{Device, InterruptKind};
use spapr_iommu::dma::{Dma, DmaMask};
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::permission::Permission;
use spapr_iommu::uapi::vfio::PCI_CONFIG_REGION_INDEX;
use std::sync::Arc;

const RW: Permission = Permission::ReadWrite;
/// Longer than a page of any kernel, so that the buffer has pages of its own.
const LARGE: usize = 1 << 20;

/// Runs `f` in a child, and returns whether it returned true there.
fn in_child(f: impl FnOnce() -> bool) -> Result<bool, Failed> {
    // SAFETY: a test runs at a time, so no other thread holds a lock that the child needs.
    match unsafe { fork() }? {
        ForkResult::Child => {
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).unwrap_or(false);
            // SAFETY: ends the process at once, without running what the parent has set up to run
            // at its end.
            unsafe { libc::_exit(i32::from(!ok)) }
        }
        ForkResult::Parent { child } => Ok(waitpid(child, None)? == WaitStatus::Exited(child, 0)),
    }
}

/// Returns the command register, through a handle that only reads.
fn command(device: &spapr_iommu::space::RawDevice) -> Result<u8, Failed> {
    let mut command = [0; 2];
    device.region(PCI_CONFIG_REGION_INDEX)?.read(4, &mut command)?;
    Ok(command[0])
}

/// The parent's DMA goes on, through memory that the parent registered itself.
pub(crate) fn a_child_that_drops_everything_changes_nothing() -> Result<(), Failed> {
    let fixture = Fixture::new()?;
    fixture.device.start_dma()?;
    let msi = fixture.one(InterruptKind::Msi)?;
    ensure(fixture.moves()?, "no DMA before")?;
    let locked = crate::process::locked()?;
    let low = fixture.low()?;
    let mut ours = Some((fixture, msi));
    let ok = in_child(|| {
        drop(ours.take());
        command(&low).is_ok_and(|command| command & 6 == 6)
    })?;
    ensure(ok, "the child took the device off the bus")?;
    ensure(command(&low)? & 6 == 6, "the device is off the bus after its child")?;
    let Some((fixture, msi)) = ours else { return Err("the parent has nothing left".into()) };
    ensure(fixture.device.is_dma_on() && fixture.moves()?, "no DMA after the child")?;
    ensure(crate::process::locked()? == locked, "registered memory has changed")?;
    fixture.raise_and_wait(&msi)
}

/// Buffers of a [`Dma`]: the parent and its device still share them, and the child has their
/// earlier contents.
pub(crate) fn memory_for_devices_is_the_parents() -> Result<(), Failed> {
    let locked = crate::process::locked()?;
    let (address, host) = (Fixture::address()?, Arc::new(Vfio::new()));
    let dma = Dma::new(host);
    let device: Device = dma.open(address.parse().unwrap(), DmaMask::ALL)?;
    let bar = device.bar(0, spapr_iommu::device::Endian::Big)?;
    let (large, small) = (dma.buffer::<u8>(LARGE, RW)?, dma.buffer::<u8>(64, RW)?);
    device.start_dma()?;
    let copies = |byte: u8| -> Result<bool, Failed> {
        small.write_slice(0, &[byte; 64])?;
        large.write(LARGE - 64, 0)?;
        crate::device::transfer(&bar, small.iova().0, crate::device::BUFFER, 64, 1)?;
        let to = large.iova_of(LARGE - 64)?.0;
        crate::device::transfer(&bar, crate::device::BUFFER, to, 64, 3)?;
        Ok(large.read(LARGE - 64)? == byte)
    };
    ensure(copies(7)?, "no DMA before")?;
    let ok = in_child(|| {
        // A snapshot: only the child sees what it writes.
        let snapshot = small.read(3) == Ok(7) && large.read(LARGE - 64) == Ok(7);
        small.write(3, 9).is_ok() && snapshot
    })?;
    ensure(ok && small.read(3)? == 7, "a child that shares memory with its parent")?;
    ensure(copies(8)?, "no DMA after a child that wrote")?;
    drop(bar);
    let mut ours = Some((large, small, device, dma));
    ensure(in_child(|| ours.take().is_some())?, "a child that drops it all")?;
    let Some((large, small, device, dma)) = ours else { return Err("the parent has nothing left".into()) };
    let bar = device.bar(0, spapr_iommu::device::Endian::Big)?;
    small.write_slice(0, &[5; 64])?;
    crate::device::transfer(&bar, small.iova().0, crate::device::BUFFER, 64, 1)?;
    crate::device::transfer(&bar, crate::device::BUFFER, large.iova().0, 64, 3)?;
    ensure(large.read(63)? == 5, "no DMA after a child that dropped everything")?;
    drop((bar, large, small, device, dma));
    ensure(crate::process::locked()? == locked, "memory stays locked")
}
