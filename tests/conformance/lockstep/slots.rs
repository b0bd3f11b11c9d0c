//! The files and names an episode uses.

use spapr_iommu::scenario::bare::{DeviceFile, Which};
pub(crate) use spapr_iommu::scenario::bare::{Part, Slot, Step, Where};

pub(crate) const CONTAINERS: usize = 3;
pub(crate) const GROUPS: usize = 2;
pub(crate) const DEVICES: usize = 4;
pub(crate) const FILES: usize = CONTAINERS + GROUPS + DEVICES;

/// The first two are files of one device, the third is another group's, the fourth has a name that does not exist.
const DEVICE_FILES: [DeviceFile; DEVICES] = [
    DeviceFile { group: 0, which: Which::First },
    DeviceFile { group: 0, which: Which::Again },
    DeviceFile { group: 1, which: Which::First },
    DeviceFile { group: 0, which: Which::Absent },
];

/// The n-th device file.
pub(crate) fn device(n: usize) -> Slot {
    Slot::Device(DEVICE_FILES[n])
}

/// The n-th file.
pub(crate) fn slot(index: usize) -> Slot {
    match index {
        n if n < CONTAINERS => Slot::Container(n),
        n if n < CONTAINERS + GROUPS => Slot::Group(n - CONTAINERS),
        n => device(n - CONTAINERS - GROUPS),
    }
}
