//! Wrong use: the error is named, and nothing is left.

use crate::edu::{copied, mask};
use crate::edu_driver::{Edu, EduError, ID, MOST};
use crate::fixture::{Fixture, Left};
use libtest_mimic::Failed;
use spapr_iommu::addr::IovaRange;
use spapr_iommu::device::{AccessError, InterruptKind};
use spapr_iommu::dma::{Dma, DmaError, DmaMask, OpenError, ReleaseRefusal};
use spapr_iommu::host::MemlockError;
use spapr_iommu::permission::Permission;
use spapr_iommu::registry::RegisterError;
use spapr_iommu_tests::machine::RealLimit;
use std::time::Duration;

fn unexpected<T>(what: impl core::fmt::Debug) -> Result<T, Failed> {
    Err(format!("another error was expected than {what:?}").into())
}

/// Runs `f` twice; the second run must leave what the first left.
fn twice(fixture: &Fixture, f: impl Fn() -> Result<(), Failed>) -> Result<(), Failed> {
    let _quick = fixture.without_reset(&fixture.device(ID)?)?;
    f()?;
    let before = Left::now(fixture)?;
    f()?;
    Left::now(fixture)?.same_as(&before)
}

pub(crate) fn a_mask_too_small_is_named(fixture: &Fixture) -> Result<(), Failed> {
    let address = fixture.device(ID)?;
    twice(fixture, || match Edu::open(&fixture.dma(), address.parse().unwrap(), mask(12), None).err() {
        Some(EduError::Open(OpenError::Dma(DmaError::MaskTooSmall { .. }))) => Ok(()),
        other => unexpected(other),
    })
}

pub(crate) fn a_budget_too_small_is_named(fixture: &Fixture) -> Result<(), Failed> {
    twice(fixture, || {
        let dma = fixture.small_dma();
        let _edu = Edu::open(&dma, fixture.device(ID)?.parse().unwrap(), DmaMask::ALL, None)?;
        let most = fixture.host.memlock()?.locked + (1 << 20);
        match &fixture.model {
            Some(model) => {
                model.set_memlock(Some(most), false);
                let refused = over_budget(&dma);
                model.set_memlock(None, true);
                refused
            }
            None => {
                let _limit = RealLimit::new(most)?;
                over_budget(&dma)
            }
        }
    })
}

fn over_budget(dma: &Dma) -> Result<(), Failed> {
    match dma.buffer::<u8>(8 << 20, Permission::ReadWrite).err() {
        Some(DmaError::Register(RegisterError::Memlock(MemlockError::OverLimit { missing, .. }))) if missing > 0 => {
            Ok(())
        }
        other => unexpected(other),
    }
}

/// The device loses its memory before the process does.
pub(crate) fn a_buffer_dropped_while_the_device_runs(fixture: &Fixture) -> Result<(), Failed> {
    let address = fixture.device(ID)?;
    twice(fixture, || {
        let dma = fixture.small_dma();
        let edu = Edu::open(&dma, address.parse().unwrap(), DmaMask::ALL, None)?;
        let (from, to) = copied(&dma, &edu, 7)?;
        let refused = match to.release() {
            Err(refused) => refused,
            Ok(()) => return Err("a buffer was released while the device does DMA".into()),
        };
        let ReleaseRefusal::DeviceRuns { device, .. } = &refused.why else { return unexpected(refused.why) };
        if *device != address {
            return unexpected(device);
        }
        let gone: IovaRange = from.iova_range();
        // Mapped earlier, so that it does not get the bus addresses that are freed.
        let target = dma.buffer::<u8>(MOST as usize, Permission::Write)?;
        if target.iova_range().intersection(&gone).is_some() {
            return Err(format!("{} was given out twice", target.iova_range()).into());
        }
        drop((from, refused));
        // Small buffers share pages: nothing else is in this one.
        if dma.space().translate(gone.start()).is_some() {
            return Err("the page is still mapped".into());
        }
        // The device is told to read memory that is unmapped; it must write something other than
        // what was there.
        match edu.copy_between(gone, target.iova_range()) {
            Ok(()) | Err(EduError::Access(AccessError::Frozen { .. })) => {}
            Err(error) => return unexpected(error),
        }
        let mut found = vec![1; MOST as usize];
        target.read_slice(0, &mut found)?;
        if found.iter().all(|byte| matches!(byte, 0 | 0xff)) {
            Ok(())
        } else {
            Err("the device read what was gone".into())
        }
    })
}

pub(crate) fn a_panic_while_the_device_runs(fixture: &Fixture) -> Result<(), Failed> {
    let address = fixture.device(ID)?;
    twice(fixture, || {
        let panics = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| -> Result<(), Failed> {
            let dma = fixture.small_dma();
            let edu = Edu::open(&dma, address.parse().unwrap(), DmaMask::ALL, Some(InterruptKind::Msi))?;
            let _buffers = copied(&dma, &edu, 8)?;
            std::panic::resume_unwind(Box::new("in between"));
        }));
        match panics {
            Err(panic) if panic.downcast_ref::<&str>() == Some(&"in between") => Ok(()),
            Err(panic) => std::panic::resume_unwind(panic),
            Ok(result) => result.and(Err("there was no panic".into())),
        }
    })
}

/// The last device: on a real machine it does not come back.
pub(crate) fn a_device_that_is_gone_is_named(fixture: &Fixture) -> Result<(), Failed> {
    let devices = fixture.devices(ID);
    let address = devices.last().ok_or("there is no edu")?.clone();
    let dma = fixture.small_dma();
    let edu = Edu::open(&dma, address.parse().unwrap(), DmaMask::ALL, None)?;
    match &fixture.model {
        Some(model) => {
            let group = edu.device().group();
            model.unplug(group);
            match copied(&dma, &edu, 9) {
                Err(error) if format!("{error:?}").contains("is gone") => {}
                other => return unexpected(other.map(drop)),
            }
        }
        None => {
            // The kernel asks for the device back, and waits until it is released.
            let asked = edu.device().enable_interrupts(InterruptKind::Request, 1)?;
            let path = format!("/sys/bus/pci/devices/{address}/remove");
            let remover = std::thread::spawn(move || std::fs::write(path, "1"));
            if !asked[0].wait(Some(Duration::from_secs(20)))? {
                return Err("the kernel did not ask for the device".into());
            }
            drop((asked, edu));
            remover.join().map_err(|_| "the thread panicked")??;
            match Edu::open(&dma, address.parse().unwrap(), DmaMask::ALL, None).err() {
                Some(EduError::Open(OpenError::NoDevice { .. })) => {}
                other => return unexpected(other),
            }
        }
    }
    Ok(())
}

pub(crate) fn firmware_without_windows(fixture: &Fixture) -> Result<(), Failed> {
    let address = fixture.device(ID)?;
    twice(fixture, || match Edu::open(&fixture.dma(), address.parse().unwrap(), DmaMask::ALL, None).err() {
        Some(error) if error.to_string().contains("ddw") => Ok(()),
        other => unexpected(other),
    })
}
