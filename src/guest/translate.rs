//! Translates bus addresses to the guest's memory, for devices that the VMM emulates.

use super::liobn::Liobn;
use super::phb::Phb;
use super::table::TceTable;
use super::{GuestIommu, tce};
use crate::addr::{GuestAddr, Iova, PageShift};
use crate::permission::Permission;

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

impl Phb {
    /// Translates `iova` for a device on this PHB. Lock-free: hypercalls of other vCPUs may run
    /// meanwhile.
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
