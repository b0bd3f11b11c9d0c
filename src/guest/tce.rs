//! Decodes TCEs.

use crate::addr::{GuestAddr, PageShift};
use crate::permission::Permission;
use crate::uapi::papr::tce::{READ, WRITE};

/// Returns what a device may do by this TCE; `None` for nothing, in which case the guest may use
/// the other bits freely.
pub(super) fn permission(tce: u64) -> Option<Permission> {
    Permission::from_bits((tce & (READ | WRITE)) as u32)
}

/// Returns the guest page it leads to; `None` if it is not aligned to the table's page.
pub(super) fn address(tce: u64, page: PageShift) -> Option<GuestAddr> {
    let address = tce & !(READ | WRITE);
    (address & page.mask() == 0).then_some(GuestAddr(address))
}
