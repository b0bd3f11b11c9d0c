//! Every rule: the file and name of its test, where in the kernel it is, where it holds, how it leaves the machine.

use crate::rule::*;
use crate::{fatal, map};
use Leaves::*;

/// `drivers/vfio/vfio_iommu_spapr_tce.c`.
pub(crate) const TCE: &str = "vfio_iommu_spapr_tce.c";

macro_rules! rules {
    ($($file:ident::$name:ident, $place:expr, $on:expr, $leaves:expr;)*) => {
        &[$(Rule {
            name: stringify!($name),
            file: stringify!($file),
            place: $place,
            on: $on,
            leaves: $leaves,
            show: $file::$name,
        }),*]
    };
}

#[rustfmt::skip]
pub(crate) const RULES: &[Rule] = rules! {
    map::map_with_a_misaligned_iova_gives_1, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;

    fatal::map_past_the_end_of_a_window_is_an_oops_on_pseries, "vfio_iommu_spapr_tce.c: tce_iommu_unuse_page_v2", pseries, Fatal;
    fatal::map_of_no_bytes_at_0_hangs_power8, "powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
    fatal::unmap_of_no_bytes_at_0_hangs_power8, "powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
    fatal::map_at_0_that_fails_at_once_hangs_power8, "powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
};

/// Rules that no test can show.
pub(crate) const UNSHOWN: &[Unshown] = &[];
