//! Every rule: the file and name of its test, where in the kernel it is, where it holds, how it leaves the machine.

use crate::rule::*;
use crate::{create, create_pseries, fatal, locked, map, remove};
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
    // Locked memory.
    locked::the_default_window_is_charged_when_it_comes, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;
    locked::v1_is_charged_for_the_table_as_well, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;
    locked::a_window_is_charged_with_its_table_until_it_is_removed, "vfio_iommu_spapr_tce.c: tce_iommu_free_table", usable, Clean;
    locked::a_table_of_levels_is_charged_in_full_on_powernv, "powernv/pci-ioda.c: pnv_pci_ioda2_get_table_size", powernv, Clean;
    locked::with_the_capability_locked_memory_is_counted_and_not_limited, "mm/util.c: __account_locked_vm", usable, Clean;
    locked::a_window_over_the_limit_gives_enomem_and_loses_nothing, "mm/util.c: __account_locked_vm", usable, Clean;
    locked::a_failed_create_loses_its_charge, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Scars;
    locked::what_is_refused_before_the_charge_loses_nothing, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;

    // TCE_CREATE.
    create::v1_knows_no_windows, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;
    create::without_a_group_create_and_remove_give_einval, "vfio/container.c: vfio_fops_unl_ioctl", usable, Clean;
    create::create_checks_its_arguments_before_the_default_window_comes, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;
    create::create_looks_at_no_reserved_word_and_takes_a_larger_argsz, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;
    create::create_writes_back_the_start_and_only_when_it_succeeds, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;
    create::create_makes_the_waiting_default_window_first, "vfio_iommu_spapr_tce.c: tce_iommu_create_default_window", usable, Clean;
    create::without_the_default_window_create_makes_one_window, "vfio_iommu_spapr_tce.c: tce_iommu_create_window", usable, Clean;
    create::a_third_window_gives_enospc, "vfio_iommu_spapr_tce.c: tce_iommu_find_free_table", usable, Clean;
    create::a_page_the_machine_lacks_gives_einval, "vfio_iommu_spapr_tce.c: tce_iommu_create_window", usable, Clean;
    create::a_page_shift_counts_by_its_low_seven_bits, "vfio_iommu_spapr_tce.c: tce_iommu_create_window", pseries, Scars;
    create::an_empty_table_gives_einval, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;
    create::a_slot_decides_where_a_window_starts_on_powernv, "powernv/pci-ioda.c: pnv_pci_ioda2_create_table", powernv, Clean;
    create::levels_over_55_bits_give_einval_on_powernv, "powernv/pci-ioda-tce.c: pnv_pci_ioda2_table_alloc_pages", powernv, Scars;
    create::a_small_window_is_larger_than_asked_on_powernv, "powernv/pci-ioda-tce.c: pnv_pci_ioda2_table_alloc_pages", powernv, Clean;
    create::a_large_window_at_0_covers_mmio_on_powernv, "powernv/pci-ioda.c: pnv_pci_ioda2_setup_default_config", powernv, Clean;
    create_pseries::the_default_window_and_a_dynamic_one_fit_on_pseries, "pseries/iommu.c: spapr_tce_create_table", pseries, Clean;
    create_pseries::a_dynamic_window_in_slot_0_lies_high_on_pseries, "pseries/iommu.c: spapr_tce_create_table", pseries, Clean;
    create_pseries::a_small_window_in_slot_0_is_a_default_window_on_pseries, "pseries/iommu.c: spapr_tce_create_table", pseries, Clean;
    create_pseries::slot_0_is_closed_while_a_dynamic_window_lives_on_pseries, "pseries/iommu.c: spapr_tce_create_table", pseries, Scars;
    create_pseries::more_than_one_level_gives_einval_and_loses_4_gib_on_pseries, "pseries/iommu.c: spapr_tce_get_table_size", pseries, Scars;
    create_pseries::too_large_a_window_gives_einval_and_poisons_nothing_on_pseries, "pseries/iommu.c: spapr_tce_create_table", pseries, Scars;
    create_pseries::a_window_below_its_page_makes_the_kernel_warn_on_pseries, "powerpc/kernel/iommu.c: iommu_init_table", pseries, Scars;
    create_pseries::a_second_dynamic_window_poisons_the_pe_on_pseries, "pseries/iommu.c: spapr_tce_create_table", pseries, Poison;
    create_pseries::without_ddw_in_the_firmware_there_is_no_window_on_pseries, "pseries/iommu.c: spapr_tce_create_table", bare_firmware, Poison;
    create_pseries::the_only_window_is_had_once_the_default_one_is_gone_on_pseries, "pseries/iommu.c: spapr_tce_create_table", pseries, CleanModel;

    // TCE_REMOVE.
    remove::remove_checks_its_arguments_before_it_cancels, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;
    remove::remove_of_0_cancels_the_waiting_default_window, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;
    remove::a_removed_default_window_does_not_come_back, "vfio_iommu_spapr_tce.c: tce_iommu_remove_window", usable, Clean;
    remove::remove_takes_any_address_inside_a_window, "vfio_iommu_spapr_tce.c: tce_iommu_remove_window", usable, Clean;
    remove::remove_outside_all_windows_gives_einval, "vfio_iommu_spapr_tce.c: tce_iommu_remove_window", usable, Clean;
    remove::remove_unmaps_what_is_mapped_in_the_window, "vfio_iommu_spapr_tce.c: tce_iommu_remove_window", usable, Clean;
    remove::a_device_reaches_nothing_once_the_window_is_removed, "vfio_iommu_spapr_tce.c: tce_iommu_remove_window", usable, Clean;

    map::map_with_a_misaligned_iova_gives_1, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;

    fatal::map_past_the_end_of_a_window_is_an_oops_on_pseries, "vfio_iommu_spapr_tce.c: tce_iommu_unuse_page_v2", pseries, Fatal;
    fatal::map_of_no_bytes_at_0_hangs_power8, "powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
    fatal::unmap_of_no_bytes_at_0_hangs_power8, "powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
    fatal::map_at_0_that_fails_at_once_hangs_power8, "powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
};

/// Rules that no test can show.
pub(crate) const UNSHOWN: &[Unshown] = &[];
