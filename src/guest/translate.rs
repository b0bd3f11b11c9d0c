//! Translates bus addresses to the guest's memory, for devices that the VMM emulates.

use super::memory::NoMemory;
use super::phb::Phb;
use super::runs;
use super::table::TceTable;
use crate::addr::{GuestAddr, Iova, PageShift};
use crate::permission::Permission;

/// Where a bus address leads in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestTranslation {
    /// Guest address.
    pub guest: GuestAddr,
    /// What the device may do there.
    pub permission: Permission,
    /// The window's page: the translation holds up to the end of this page.
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
        let permission = runs::permission(value)?;
        let start = runs::address(value, page)?;
        Some(GuestTranslation { guest: GuestAddr(start.0 | (iova.0 & page.mask())), permission, page })
    }
}

/// Bus addresses that lead to consecutive guest addresses with the same rights.
pub(super) struct Stretch {
    pub there: GuestTranslation,
    /// Bytes.
    pub len: u64,
    /// TCEs that were read.
    #[cfg_attr(not(feature = "vm-memory"), allow(dead_code, reason = "bounds accesses of PhbIommu"))]
    pub tces: u64,
}

impl TceTable {
    /// Translates `iova` and what follows it: `len` bytes and `tces` TCEs at most.
    fn stretch(&self, iova: Iova, len: u64, tces: u64) -> Option<Stretch> {
        let there = self.translate(iova)?;
        let page = self.page();
        let first = (iova.0 - self.window().start().0) >> page.get();
        let most = (iova.0 & page.mask()).saturating_add(len).div_ceil(page.bytes()).min(tces);
        let tce = self.load(first);
        let follows = |count: &u64| self.load(first + count) == tce.wrapping_add(count << page.get());
        // The first was read twice: a guest that changes it meanwhile gets either.
        let count = 1 + (1..most).take_while(follows).count() as u64;
        let reach = (count << page.get()) - (iova.0 & page.mask());
        Some(Stretch { there, len: reach.min(len), tces: count })
    }
}

/// Why an emulated device did not reach guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, strum::IntoStaticStr)]
#[strum(serialize_all = "kebab-case")]
#[allow(missing_docs, reason = "the message names each field")]
#[non_exhaustive]
pub enum DeviceAccessError {
    /// The guest gave no such right at the bus address, the first such one.
    #[error("the guest does not let devices {access} at bus address {at}: map it before starting the device")]
    NotMapped { at: Iova, access: &'static str },
    /// The bus addresses wrap.
    #[error("{len} bytes at bus address {at} run past the end of the bus")]
    Wraps { at: Iova, len: usize },
    /// The VMM does not have the RAM to which the guest's TCE leads.
    #[error("the guest maps RAM that the VMM took away: call remove_memory before a slot is removed")]
    Memory(#[source] NoMemory),
}

crate::error::classify!(DeviceAccessError {
    Argument: Wraps;
    NotFound: NotMapped, Memory;
});

impl Phb {
    /// Translates `iova` for a device on this PHB: the result of its guest's TCE. Lock-free, also
    /// while vCPUs make hypercalls.
    pub fn translate(&self, iova: Iova) -> Option<GuestTranslation> {
        self.tables_now().iter().find(|table| table.window().contains(iova))?.translate(iova)
    }

    /// Translates `iova` and what follows it in the same window: `len` bytes and `tces` TCEs at
    /// most.
    pub(super) fn stretch(&self, iova: Iova, len: u64, tces: u64) -> Option<Stretch> {
        self.tables_now().iter().find(|table| table.window().contains(iova))?.stretch(iova, len, tces)
    }

    /// Reads guest memory at a bus address as an emulated device on this PHB does, through the
    /// guest's TCEs. After an error, some of `data` may have been read.
    pub fn device_read(&self, iova: Iova, data: &mut [u8]) -> Result<(), DeviceAccessError> {
        let (mut at, mut rest) = (iova, data);
        check_end(iova, rest.len())?;
        while !rest.is_empty() {
            let (guest, len) = self.reach(at, rest.len(), Permission::Read)?;
            let (part, after) = rest.split_at_mut(len);
            self.ram.memory().read(guest, part).map_err(DeviceAccessError::Memory)?;
            (at, rest) = (Iova(at.0 + len as u64), after);
        }
        Ok(())
    }

    /// Writes guest memory at a bus address as an emulated device on this PHB does. After an error,
    /// some of `data` may have been written.
    pub fn device_write(&self, iova: Iova, data: &[u8]) -> Result<(), DeviceAccessError> {
        let (mut at, mut rest) = (iova, data);
        check_end(iova, rest.len())?;
        while !rest.is_empty() {
            let (guest, len) = self.reach(at, rest.len(), Permission::Write)?;
            let (part, after) = rest.split_at(len);
            self.ram.memory().write(guest, part).map_err(DeviceAccessError::Memory)?;
            (at, rest) = (Iova(at.0 + len as u64), after);
        }
        Ok(())
    }

    /// Returns where a device reaches guest memory at `at`, and how many of `len` bytes there.
    fn reach(&self, at: Iova, len: usize, access: Permission) -> Result<(GuestAddr, usize), DeviceAccessError> {
        let found = self.stretch(at, len as u64, u64::MAX);
        let found = found.filter(|found| [access, Permission::ReadWrite].contains(&found.there.permission));
        let access = if access == Permission::Read { "read" } else { "write" };
        let found = found.ok_or(DeviceAccessError::NotMapped { at, access })?;
        Ok((found.there.guest, len.min(found.len as usize)))
    }
}

/// Checks that `len` bytes at `at` end on the bus.
fn check_end(at: Iova, len: usize) -> Result<(), DeviceAccessError> {
    at.0.checked_add(len as u64).map(drop).ok_or(DeviceAccessError::Wraps { at, len })
}
