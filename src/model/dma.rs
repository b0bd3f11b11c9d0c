//! DMA of a device: accesses memory through the TCEs of its container, IOMMU page by IOMMU page.

use super::pci::BusError;
use super::physical::Physical;
use super::preset::Preset;
use super::spapr_tce::Driver;
use super::vfio::State;
use super::violation::{DmaDirection, Violation};
use crate::addr::Iova;
use crate::uapi::eeh::state::{NORMAL, STOPPED};
use crate::uapi::vfio::{DMA_MAP_FLAG_READ, DMA_MAP_FLAG_WRITE};
use core::ops::Range;

/// Reads; bytes that are not mapped for reading are zeros.
pub(super) fn read(
    preset: &Preset,
    driver: &Driver,
    memory: &Physical,
    iova: u64,
    data: &mut [u8],
) -> Result<(), Violation> {
    data.fill(0);
    let Reached { parts, over, .. } = translate(preset, driver, iova, data.len(), DMA_MAP_FLAG_READ);
    for (physical, span) in parts {
        memory.read(physical, &mut data[span]);
    }
    over.map_or(Ok(()), |at| Err(Violation::DmaOverMmio { at }))
}

/// Writes; bytes that are not mapped for writing are dropped.
pub(super) fn write(
    preset: &Preset,
    driver: &Driver,
    memory: &mut Physical,
    iova: u64,
    data: &[u8],
) -> Result<(), Violation> {
    let Reached { parts, over, .. } = translate(preset, driver, iova, data.len(), DMA_MAP_FLAG_WRITE);
    for (physical, span) in parts {
        memory.write(physical, &data[span]);
    }
    over.map_or(Ok(()), |at| Err(Violation::DmaOverMmio { at }))
}

impl State {
    /// Reads memory for a device that may use the bus.
    pub(super) fn dma_read(&mut self, group: u32, index: usize, iova: Iova, data: &mut [u8]) -> Result<(), BusError> {
        let allowed = self.check(group, index, iova, data.len(), DmaDirection::Read);
        let State { kernel, containers, .. } = self;
        let container = kernel.groups.get(&group).and_then(|group| containers.get(&group.container?));
        match container.and_then(|container| container.driver.as_ref()).filter(|_| allowed != Err(BusError::Frozen)) {
            Some(driver) => {
                let result = read(&kernel.preset, driver, &kernel.process.physical, iova.0, data);
                kernel.violations.extend(result.err());
            }
            None => data.fill(0),
        }
        allowed
    }

    /// Writes memory for a device that may use the bus.
    pub(super) fn dma_write(&mut self, group: u32, index: usize, iova: Iova, data: &[u8]) -> Result<(), BusError> {
        let allowed = self.check(group, index, iova, data.len(), DmaDirection::Write);
        let State { kernel, containers, .. } = self;
        let container = kernel.groups.get(&group).and_then(|group| containers.get(&group.container?));
        let driver = container.and_then(|container| container.driver.as_ref());
        if let Some(driver) = driver.filter(|_| allowed != Err(BusError::Frozen)) {
            let result = write(&kernel.preset, driver, &mut kernel.process.physical, iova.0, data);
            kernel.violations.extend(result.err());
        }
        allowed
    }

    /// Checks an access of a device. One that no TCE allows is recorded, and freezes the PE where
    /// the machine does that.
    fn check(
        &mut self,
        number: u32,
        index: usize,
        iova: Iova,
        len: usize,
        direction: DmaDirection,
    ) -> Result<(), BusError> {
        let Some(group) = self.kernel.groups.get_mut(&number) else { return Err(BusError::NotMaster) };
        if group.eeh_state != NORMAL {
            return Err(BusError::Frozen);
        }
        let access = match direction {
            DmaDirection::Read => DMA_MAP_FLAG_READ,
            DmaDirection::Write => DMA_MAP_FLAG_WRITE,
        };
        let container = group.container.and_then(|id| self.containers.get(&id));
        let refused = match container.and_then(|container| container.driver.as_ref()) {
            Some(driver) => refused(&self.kernel.preset, driver, iova.0, len, access),
            None => (len > 0).then_some(iova.0),
        };
        let Some(at) = refused.map(Iova) else { return Ok(()) };
        let device = group.devices[index].address.clone();
        self.kernel.violations.push(Violation::DeviceDma { device, at, direction });
        if self.kernel.freezes {
            group.eeh_state = STOPPED;
        }
        Err(BusError::Refused { at })
    }
}

/// Returns the first bus address of an access that no TCE allows.
fn refused(preset: &Preset, driver: &Driver, iova: u64, len: usize, access: u32) -> Option<u64> {
    translate(preset, driver, iova, len, access).refused
}

/// The parts that an access reaches.
#[derive(Default)]
struct Reached {
    /// Physical addresses of the parts that are allowed.
    parts: Vec<(u64, Range<usize>)>,
    /// The first address that is mapped where the host bridge decodes MMIO.
    over: Option<Iova>,
    /// The first address that no TCE allows.
    refused: Option<u64>,
}

fn translate(preset: &Preset, driver: &Driver, iova: u64, len: usize, access: u32) -> Reached {
    let mmio = preset.mmio();
    let mut reached = Reached::default();
    let mut done = 0;
    while let Some(at) = iova.checked_add(done as u64).filter(|_| done < len) {
        let table = driver.slot(at).and_then(|slot| driver.tables[slot].as_ref());
        let page = 1u64 << table.map_or(12, |table| table.shift);
        let rest = page - (at & (page - 1));
        let take = usize::try_from(rest).unwrap_or(usize::MAX).min(len - done);
        if let Some(tce) = table.and_then(|table| table.entry(at)).filter(|tce| tce.bits & access != 0) {
            // Both ends of the MMIO are at a multiple of every page that a window at 0 may have.
            if mmio.contains(&at) {
                reached.over = reached.over.or(Some(Iova(at)));
            } else {
                reached.parts.push((at.wrapping_add(tce.physical), done..done + take));
            }
        } else {
            reached.refused = reached.refused.or(Some(at));
        }
        done += take;
    }
    if done < len {
        // The rest is past the last bus address.
        reached.refused = reached.refused.or(Some(iova.wrapping_add(done as u64)));
    }
    reached
}
