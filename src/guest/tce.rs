//! What a TCE says.

use crate::addr::{GuestAddr, PageShift};
use crate::permission::Permission;
use crate::uapi::papr::tce::{READ, WRITE};

/// What a device may do by this TCE; `None` for nothing: then the rest of it is the guest's own business.
pub(super) fn permission(tce: u64) -> Option<Permission> {
    Permission::from_bits((tce & (READ | WRITE)) as u32)
}

/// The guest's page it leads to; `None` when it is not aligned to the table's page.
pub(super) fn address(tce: u64, page: PageShift) -> Option<GuestAddr> {
    let address = tce & !(READ | WRITE);
    (address & page.mask() == 0).then_some(GuestAddr(address))
}
