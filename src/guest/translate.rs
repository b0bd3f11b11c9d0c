//! Translates bus addresses to the guest's memory, for devices that the VMM emulates.

use super::liobn::Liobn;
use super::memory::NoMemory;
use super::phb::Phb;
use super::table::TceTable;
use super::{GuestIommu, tce};
use crate::addr::{GuestAddr, Iova, PageShift};
use crate::permission::Permission;
use core::ops::Range;

/// Where a bus address leads in the guest: the result of a translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestTranslation {
    /// Guest address.
    pub guest: GuestAddr,
    /// What the device may do there.
    pub permission: Permission,
    /// The window's page: the translation holds up to its end, and no further.
    pub page: PageShift,
}

impl GuestTranslation {
    /// Returns the mask of the address bits within the page.
    pub fn mask(&self) -> u64 {
        self.page.mask()
    }
}

impl TceTable {
    /// Translates `iova`; `None` outside the window, and where the guest gave no rights. Lock-free.
    pub fn translate(&self, iova: Iova) -> Option<GuestTranslation> {
        let page = self.page();
        let offset = iova.0.checked_sub(self.window().start().0).filter(|_| self.window().contains(iova))?;
        let value = self.load(offset >> page.get());
        let permission = tce::permission(value)?;
        let start = tce::address(value, page)?;
        Some(GuestTranslation { guest: GuestAddr(start.0 | (iova.0 & page.mask())), permission, page })
    }
}

/// A stretch of bus addresses that leads on from one place with the same rights.
pub(super) struct Stretch {
    pub there: GuestTranslation,
    /// Bytes.
    pub len: u64,
    /// TCEs that were looked at.
    #[cfg_attr(not(feature = "vm-memory"), allow(dead_code, reason = "bounds accesses of PhbIommu"))]
    pub tces: u64,
}

impl TceTable {
    /// Where `iova` leads, and how far what follows it leads on from there: `len` bytes and `tces`
    /// TCEs at most.
    fn stretch(&self, iova: Iova, len: u64, tces: u64) -> Option<Stretch> {
        let there = self.translate(iova)?;
        let page = self.page();
        let first = (iova.0 - self.window().start().0) >> page.get();
        let most = (iova.0 & page.mask()).saturating_add(len).div_ceil(page.bytes()).min(tces);
        let tce = self.load(first);
        let follows = |count: &u64| self.load(first + count) == tce.wrapping_add(count << page.get());
        // The first was looked at twice: a guest that changes it meanwhile gets either.
        let count = 1 + (1..most).take_while(follows).count() as u64;
        let reach = (count << page.get()) - (iova.0 & page.mask());
        Some(Stretch { there, len: reach.min(len), tces: count })
    }
}

/// Why an emulated device does not reach guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceAccessError {
    /// The guest gave no such right there.
    #[error("the guest does not let devices {access} at bus address {at}: map it before the device is started")]
    NotMapped {
        /// The first such bus address.
        at: Iova,
        /// What was tried.
        access: &'static str,
    },
    /// The bus addresses wrap.
    #[error("{len} bytes at bus address {at} reach over the end of the bus")]
    Wraps {
        /// Where they start.
        at: Iova,
        /// How many.
        len: usize,
    },
    /// The VMM has no such RAM.
    #[error("the guest maps what the VMM has not: call remove_memory before a slot goes")]
    Memory(#[source] NoMemory),
}

impl Phb {
    /// As [`TceTable::stretch`], in the window that holds `iova`.
    pub(super) fn stretch(&self, iova: Iova, len: u64, tces: u64) -> Option<Stretch> {
        self.tables_now().iter().find(|table| table.window().contains(iova))?.stretch(iova, len, tces)
    }

    /// Reads what an emulated device behind this PHB reads at a bus address: guest memory, through
    /// the guest's TCEs. Where it fails, some of `data` may have been read.
    pub fn device_read(&self, iova: Iova, data: &mut [u8]) -> Result<(), DeviceAccessError> {
        self.each_stretch(iova, data.len(), Permission::Read, |at, span| {
            let part = data.get_mut(span).unwrap_or_default();
            self.ram.memory().read(at, part)
        })
    }

    /// Writes what an emulated device behind this PHB writes at a bus address. Where it fails, some
    /// may have been written.
    pub fn device_write(&self, iova: Iova, data: &[u8]) -> Result<(), DeviceAccessError> {
        self.each_stretch(iova, data.len(), Permission::Write, |at, span| {
            let part = data.get(span).unwrap_or_default();
            self.ram.memory().write(at, part)
        })
    }

    fn each_stretch(
        &self,
        iova: Iova,
        len: usize,
        access: Permission,
        mut act: impl FnMut(GuestAddr, Range<usize>) -> Result<(), NoMemory>,
    ) -> Result<(), DeviceAccessError> {
        iova.0.checked_add(len as u64).ok_or(DeviceAccessError::Wraps { at: iova, len })?;
        let mut done = 0;
        while done < len {
            let at = Iova(iova.0 + done as u64);
            let found = self
                .stretch(at, (len - done) as u64, u64::MAX)
                .filter(|found| found.there.permission == access || found.there.permission == Permission::ReadWrite);
            let access = if access == Permission::Read { "read" } else { "write" };
            let found = found.ok_or(DeviceAccessError::NotMapped { at, access })?;
            let end = done + found.len as usize;
            act(found.there.guest, done..end).map_err(DeviceAccessError::Memory)?;
            done = end;
        }
        Ok(())
    }

    /// Where a device behind this PHB gets with `iova`. Waits for nobody: hypercalls of other vCPUs
    /// may go on.
    pub fn translate(&self, iova: Iova) -> Option<GuestTranslation> {
        self.tables_now().iter().find(|table| table.window().contains(iova))?.translate(iova)
    }
}

impl GuestIommu {
    /// Translates `iova` in the window with that LIOBN.
    pub fn translate(&self, liobn: Liobn, iova: Iova) -> Option<GuestTranslation> {
        self.with_table(liobn, |table| Ok(table.translate(iova))).ok()?
    }
}
