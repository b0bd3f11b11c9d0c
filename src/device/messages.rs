//! Checks that a device was told where its MSI-X messages go.
//!
//! Linux 7.2 on pseries has the firmware fill the table once for each binding to a driver. The
//! reset when vfio-pci's device is opened again clears it, and it is never refilled: the interrupts
//! are enabled but never arrive (seen on 7.2.13 under QEMU).

use super::config::{Config, MSIX};
use super::{AccessError, DeviceError};
use crate::host::{Errno, Region};
use crate::space;
use crate::uapi::vfio::PCI_BAR0_REGION_INDEX;
use std::sync::Arc;

/// Offset in the capability of the table's location: the BAR in the low bits, an offset in it in
/// the others.
const TABLE: u64 = 4;
const BAR: u32 = 7;
/// Size in bytes of a table entry, which begins with the address.
const ENTRY: u64 = 16;

/// Returns the first of `count` vectors that has no address.
pub(super) fn missing(
    device: &space::RawDevice,
    address: &Arc<str>,
    config: &Config,
    count: u32,
) -> Result<Option<u32>, DeviceError> {
    let Some(capability) = config.capability(MSIX) else { return Ok(None) };
    let table: u32 = config.read(capability + TABLE)?;
    let (bar, offset) = (table & BAR, u64::from(table & !BAR));
    let failed = |errno| DeviceError::Region { device: Arc::clone(address), region: "MSI-X table", errno };
    let region = device.region(PCI_BAR0_REGION_INDEX + bar).map_err(failed)?;
    without_address(&*region, offset, count).map_err(|errno| {
        let (device, region) = (Arc::clone(address), "MSI-X table");
        AccessError::Failed { device, region, offset, width: size_of::<u32>(), errno }.into()
    })
}

fn without_address(table: &dyn Region, offset: u64, count: u32) -> Result<Option<u32>, Errno> {
    for vector in 0..count {
        let mut low = [0; 4];
        let mut high = [0; 4];
        let at = offset + u64::from(vector) * ENTRY;
        table.read(at, &mut low)?;
        table.read(at + 4, &mut high)?;
        if low == [0; 4] && high == [0; 4] {
            return Ok(Some(vector));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PageShift;
    use crate::host::Shared;

    #[test]
    fn a_vector_without_an_address_is_found() {
        let table = Shared::heap(4096, PageShift::P4K).unwrap();
        table.write(0x100, &[0, 0, 0, 1]).unwrap();
        table.write(0x114, &[1, 0, 0, 0]).unwrap();
        table.write(0x12c, &[1, 1, 1, 1]).unwrap();
        assert_eq!(without_address(&table, 0x100, 2), Ok(None));
        assert_eq!(without_address(&table, 0x100, 3), Ok(Some(2)), "it has data and control alone");
        assert_eq!(without_address(&table, 4096, 1), Err(Errno::EINVAL));
    }
}
