//! Every rule: the file and name of its test, where in the kernel it is, where it holds, how it leaves the machine.

use crate::rule::*;
use crate::{create, create_pseries, eeh, fatal, locked, map, ownership, pages, platform, process, remove, sharing};
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

    // EEH_PE_OP.
    eeh::eeh_gives_enodev_without_a_pe_on_pseries, "vfio_iommu_spapr_tce.c: vfio_spapr_ioctl_eeh_pe_op", pseries, Clean;
    eeh::eeh_operations_give_0_on_a_sound_pe_on_powernv, "powerpc/kernel/eeh.c: eeh_pe_reset", powernv, Clean;
    eeh::eeh_checks_its_argument_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", powernv, Clean;
    eeh::eeh_injection_checks_function_then_type_then_firmware_on_powernv, "powernv/eeh-powernv.c: pnv_eeh_err_inject", powernv, Clean;
    eeh::eeh_state_is_a_positive_result_on_powernv, "powerpc/kernel/eeh.c: eeh_pe_get_state", powernv, CleanModel;

    // Huge pages.
    pages::ordinary_memory_carries_pages_up_to_the_hosts, "mm/book3s64/iommu_api.c: mm_iommu_do_alloc", usable, Clean;
    pages::an_iommu_page_above_the_hosts_wants_hugetlb_memory, "mm/book3s64/iommu_api.c: mm_iommu_do_alloc", usable, Clean;
    pages::a_user_address_is_aligned_to_the_iommu_page_alone, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", large_pages, Clean;
    pages::hugetlb_memory_carries_its_own_page, "mm/book3s64/iommu_api.c: mm_iommu_do_alloc", hugetlb, CleanHuge;
    pages::hugetlb_memory_registered_in_part_carries_less, "mm/book3s64/iommu_api.c: mm_iommu_do_alloc", hugetlb, CleanHuge;
    pages::small_pages_behind_hugetlb_give_eperm_where_they_are_mapped, "vfio_iommu_spapr_tce.c: tce_page_is_contained", pseries, CleanModel;

    // Groups, devices, files.
    ownership::a_group_has_one_opener, "vfio/group.c: vfio_group_fops_open", every, Clean;
    ownership::a_groups_status_says_viable_and_then_in_a_container, "vfio/group.c: vfio_group_ioctl_get_status", every, Clean;
    ownership::set_container_and_unset_container_want_their_turn, "vfio/group.c: vfio_group_ioctl_set_container", every, Clean;
    ownership::a_group_with_a_host_driver_gives_eperm, "iommu/iommu.c: iommu_group_claim_dma_owner", every, CleanModel;
    ownership::a_device_opens_behind_set_iommu_alone, "vfio/group.c: vfio_group_ioctl_get_device_fd", usable, Clean;
    ownership::a_device_file_holds_its_group, "vfio/group.c: vfio_group_ioctl_unset_container", usable, Clean;
    ownership::a_closed_container_lives_while_groups_are_in_it, "vfio/container.c: vfio_container_put", usable, Clean;
    sharing::v1_takes_one_group, "vfio_iommu_spapr_tce.c: tce_iommu_attach_group", usable, Clean;
    sharing::a_group_that_joins_sees_what_is_mapped_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_attach_group", powernv, Clean;
    sharing::a_group_does_not_come_to_anothers_window_on_pseries, "pseries/iommu.c: spapr_tce_set_window", pseries, Clean;
    sharing::two_groups_of_a_container_get_no_window_on_pseries, "pseries/iommu.c: spapr_tce_set_window", pseries, Scars;
    sharing::the_default_window_waits_for_the_first_group_alone_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_attach_group", powernv, Clean;
    sharing::a_group_that_leaves_wipes_the_tables_all_share_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_release_ownership", powernv, Clean;
    sharing::the_last_group_takes_everything_along, "vfio_iommu_spapr_tce.c: tce_iommu_release", usable, Clean;
    sharing::a_group_that_comes_back_has_all_its_windows_again, "vfio_iommu_spapr_tce.c: tce_iommu_attach_group", usable, Clean;

    // What belongs to a process.
    process::a_child_gets_eperm_from_a_container_that_is_bound, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, CleanKernel;
    process::a_failed_create_binds_the_container, "vfio_iommu_spapr_tce.c: tce_iommu_mm_set", usable, Clean;
    process::a_container_maps_what_another_registered, "mm/book3s64/iommu_api.c: mm_iommu_lookup", usable, Clean;
    process::a_container_that_ends_before_another_unmaps_its_memory_loses_it, "vfio_iommu_spapr_tce.c: tce_iommu_release", usable, Scars;

    // Bare metal and partitions.
    platform::the_default_window_starts_at_0_with_4k_pages, "vfio_iommu_spapr_tce.c: tce_iommu_create_default_window", usable, Clean;
    platform::no_way_round_the_tables_is_left_on_powernv, "powernv/pci-ioda.c: pnv_ioda2_take_ownership", powernv, Clean;
    platform::hypercall_codes_come_out_as_error_numbers_on_pseries, "pseries/iommu.c: tce_exchange_pseries", pseries, Scars;

    fatal::map_past_the_end_of_a_window_is_an_oops_on_pseries, "vfio_iommu_spapr_tce.c: tce_iommu_unuse_page_v2", pseries, Fatal;
    fatal::map_of_no_bytes_at_0_hangs_power8, "powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
    fatal::unmap_of_no_bytes_at_0_hangs_power8, "powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
    fatal::map_at_0_that_fails_at_once_hangs_power8, "powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
};

/// Rules that no test can show.
#[rustfmt::skip]
pub(crate) const UNSHOWN: &[Unshown] = &[
    Unshown { name: "a_faulting_create_or_eeh_argument_gives_efault", place: "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", why: "a host builds the structures itself" },
    Unshown { name: "a_pe_that_vfio_cannot_serve_does_not_attach", place: "vfio_iommu_spapr_tce.c: tce_iommu_attach_group", why: "no machine at hand has such a group" },
    Unshown { name: "the_firmware_may_refuse_any_window", place: "pseries/iommu.c: spapr_tce_create_table", why: "QEMU's firmware refuses none it has room for" },
    Unshown { name: "a_level_of_16_mib_fails_once_memory_is_fragmented", place: "powernv/pci-ioda-tce.c: pnv_alloc_tce_level", why: "depends on the machine's past" },
    Unshown { name: "first_maps_at_once_make_the_default_window_twice", place: "vfio_iommu_spapr_tce.c: tce_iommu_create_default_window", why: "a race" },
    Unshown { name: "maps_race_with_the_removal_of_their_window", place: "vfio_iommu_spapr_tce.c: tce_iommu_find_table", why: "a race" },
    Unshown { name: "a_pseries_table_without_its_user_addresses_is_null", place: "pseries/iommu.c: spapr_tce_create_table", why: "wants a machine out of memory" },
    Unshown { name: "failed_creates_lose_a_structure_on_pseries", place: "pseries/iommu.c: spapr_tce_create_table", why: "not seen from outside" },
    Unshown { name: "eeh_state_takes_an_error_for_bits", place: "powerpc/kernel/eeh.c: eeh_pe_get_state", why: "wants a platform that fails to answer" },
    Unshown { name: "files_close_last_opened_first_when_a_process_ends", place: "fs/file_table.c: fput", why: "`tests/kernel` shows it" },
    Unshown { name: "tces_are_set_one_hypercall_at_a_time_on_pseries", place: "pseries/iommu.c: tce_exchange_pseries", why: "the hypervisor sees it alone" },
    Unshown { name: "linux_5_19_to_6_3_bind_no_device", place: "vfio/vfio_main.c: vfio_group_find_or_alloc", why: "no such kernel at hand" },
];
