//! The files and names an episode uses.

use spapr_iommu_cli::scenario::raw::{DeviceFile, Which};
pub use spapr_iommu_cli::scenario::raw::{Part, Slot, Step, Where};

pub const CONTAINERS: usize = 3;
pub const GROUPS: usize = 2;
pub const DEVICES: usize = 4;
pub const FILES: usize = CONTAINERS + GROUPS + DEVICES;

/// The first two are files of one device, the third is another group's, the fourth has a name that
/// does not exist.
const DEVICE_FILES: [DeviceFile; DEVICES] = [
    DeviceFile { group: 0, which: Which::First },
    DeviceFile { group: 0, which: Which::Again },
    DeviceFile { group: 1, which: Which::First },
    DeviceFile { group: 0, which: Which::Absent },
];

/// Returns the n-th device file.
pub fn device(n: usize) -> Slot {
    Slot::Device(DEVICE_FILES[n])
}

/// Returns the n-th file.
pub fn slot(index: usize) -> Slot {
    match index {
        n if n < CONTAINERS => Slot::Container(n),
        n if n < CONTAINERS + GROUPS => Slot::Group(n - CONTAINERS),
        n => device(n - CONTAINERS - GROUPS),
    }
}
