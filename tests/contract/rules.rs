//! Every rule: the file and name of its test, its place in the kernel, where it applies, and how it
//! leaves the machine. `docs/kernel-contract.md` says the same: there a rule is a link with the
//! test's name to the test's file.

use crate::rule::{Leaves, *};
use crate::{
    abi, backing, core, create, create_pseries, eeh, info, locked, map, ownership, pages, register, remove, sharing,
    traps, unmap, unregister, v1,
};
use Leaves::*;
use libtest_mimic::Failed;
use std::collections::BTreeSet;

const TCE_IOCTL: &str = "vfio_iommu_spapr_tce.c: tce_iommu_ioctl";
const TCE_ENABLE: &str = "vfio_iommu_spapr_tce.c: tce_iommu_enable, tce_iommu_disable";

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
    // VFIO's core
    core::api_version_is_0, "drivers/vfio/container.c: vfio_fops_unl_ioctl", every, Clean;
    core::check_extension_says_yes_to_both_types, TCE_IOCTL, every, Clean;
    core::check_extension_denies_type1, "drivers/vfio/container.c: vfio_container_ioctl_check_extension", every, Clean;
    core::check_extension_of_eeh_follows_the_platform, TCE_IOCTL, every, Clean;
    core::set_iommu_without_a_group_is_einval, "drivers/vfio/container.c: vfio_ioctl_set_iommu", every, Clean;
    core::set_iommu_twice_is_einval, "drivers/vfio/container.c: vfio_ioctl_set_iommu", every, Clean;
    core::set_iommu_of_an_unknown_type_is_enodev_and_may_be_tried_again, "drivers/vfio/container.c: vfio_ioctl_set_iommu", every, Clean;
    core::set_iommu_of_the_eeh_extension_is_einval_where_there_is_eeh, "vfio_iommu_spapr_tce.c: tce_iommu_open", every, Clean;
    core::calls_of_a_driver_that_is_not_there_are_einval, "drivers/vfio/container.c: vfio_fops_unl_ioctl", every, Clean;
    core::calls_that_the_driver_does_not_know_are_enotty, TCE_IOCTL, every, Clean;
    core::container_without_groups_loses_its_driver_and_takes_another, "drivers/vfio/container.c: vfio_group_detach_container", usable, Clean;
    core::group_has_one_opener, "drivers/vfio/group.c: vfio_group_fops_open", every, Clean;
    abi::arguments_that_fault_are_efault, TCE_IOCTL, usable, CleanKernel;
    abi::arguments_larger_than_their_structure_are_fine, TCE_IOCTL, every, CleanKernel;
    abi::numbers_of_other_architectures_are_unknown, "arch/powerpc/include/uapi/asm/ioctl.h: _IOC_NONE", every, CleanKernel;
    abi::calls_of_another_process_are_eperm_once_one_is_bound, "vfio_iommu_spapr_tce.c: tce_iommu_mm_set", usable, CleanKernel;
    abi::devices_have_no_files_of_their_own, "drivers/vfio/Kconfig: VFIO_DEVICE_CDEV", every, CleanKernel;
    // GET_INFO
    info::info_describes_the_machines_windows, TCE_IOCTL, every, Clean;
    info::info_wants_16_bytes, TCE_IOCTL, every, Clean;
    info::info_of_less_than_32_bytes_has_the_flag_without_the_data, TCE_IOCTL, every, Clean;
    info::info_of_v1_has_no_dynamic_windows, TCE_IOCTL, every, Clean;
    info::info_answers_a_probe_for_type1, TCE_IOCTL, every, Clean;
    info::info_without_dynamic_windows_promises_2_32_of_them, TCE_IOCTL, bare_firmware, Clean;

    // v1
    v1::enable_and_disable_are_enotty_on_v2, TCE_IOCTL, usable, Clean;
    v1::register_unregister_create_and_remove_are_enotty_on_v1, TCE_IOCTL, usable, Clean;
    v1::enable_charges_the_whole_window_and_disable_gives_it_back, TCE_ENABLE, usable, Clean;
    v1::enable_twice_is_ebusy, TCE_ENABLE, usable, Clean;
    v1::enable_over_the_limit_is_enomem, TCE_ENABLE, usable, Clean;
    v1::disable_is_always_0, TCE_ENABLE, usable, Clean;
    v1::disable_leaves_mappings_to_the_device, TCE_ENABLE, usable, Clean;
    v1::map_of_what_cannot_be_written_is_efault_on_v1, "vfio_iommu_spapr_tce.c: tce_iommu_build", usable, Clean;
    v1::map_that_fails_on_v1_takes_the_pages_before_along, "vfio_iommu_spapr_tce.c: tce_iommu_build", usable, Clean;
    v1::map_on_v1_takes_memory_at_any_iommu_page, "vfio_iommu_spapr_tce.c: tce_iommu_use_page", usable, Clean;

    // MAP_DMA, before the first page
    map::map_before_any_register_is_eperm, TCE_IOCTL, usable, Clean;
    map::map_with_a_short_argument_or_strange_flags_is_einval, TCE_IOCTL, usable, Clean;
    map::map_that_is_refused_still_creates_the_default_window, "vfio_iommu_spapr_tce.c: tce_iommu_create_default_window", usable, Clean;
    map::map_that_cannot_afford_the_default_window_is_enomem, "vfio_iommu_spapr_tce.c: tce_iommu_create_default_window", usable, Clean;
    map::map_outside_all_windows_is_enxio, "vfio_iommu_spapr_tce.c: tce_iommu_find_table", usable, Clean;
    map::map_of_parts_of_iommu_pages_is_einval, TCE_IOCTL, usable, Clean;
    map::map_without_a_permission_is_einval, TCE_IOCTL, usable, Clean;
    map::map_with_a_misaligned_iova_gives_1, "arch/powerpc/include/asm/iommu.h: iommu_tce_put_param_check", usable, Clean;
    map::map_checks_the_window_then_size_then_permission_then_iova, TCE_IOCTL, usable, Clean;
    map::map_uses_the_page_of_the_window_that_holds_the_iova, "vfio_iommu_spapr_tce.c: tce_iommu_find_table", usable, Clean;
    map::no_positive_result_passes_for_success, TCE_IOCTL, usable, Clean;
    map::map_and_unmap_of_no_bytes_return_0, TCE_IOCTL, usable, Scars;

    // MAP_DMA, page by page
    pages::map_of_unregistered_memory_is_einval, "vfio_iommu_spapr_tce.c: tce_iommu_prereg_ua_to_hpa", usable, Clean;
    pages::map_goes_on_from_one_region_into_its_neighbour, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_lookup", usable, Clean;
    pages::map_of_a_page_in_two_regions_is_einval, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_lookup", large_pseries, CleanHuge;
    pages::map_takes_memory_at_any_iommu_page_of_a_host_page, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_ua_to_hpa", usable, Clean;
    pages::map_over_a_mapping_replaces_it_silently, "vfio_iommu_spapr_tce.c: tce_iommu_build_v2", usable, Clean;
    pages::map_that_fails_destroys_what_it_covered_and_keeps_the_rest, "vfio_iommu_spapr_tce.c: tce_iommu_build_v2", usable, Clean;
    pages::map_that_the_kernel_fails_is_put_back_and_not_tried_again, "platforms/pseries/iommu.c: tce_exchange_pseries", usable, Clean;
    pages::map_of_memory_that_is_gone_leads_to_its_old_pages, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_ua_to_hpa", usable, Clean;
    pages::map_for_writing_only_denies_reads_on_pseries_alone, "platforms/powernv/pci-ioda-tce.c: pnv_tce_xchg", usable, Clean;
    pages::map_past_the_end_of_a_small_window_is_eintr_and_leaks_a_count, "vfio_iommu_spapr_tce.c: tce_iommu_build_v2", pseries, Scars;
    pages::map_past_the_end_of_a_small_default_window_maps_there, "platforms/pseries/iommu.c: spapr_tce_create_table", pseries, Scars;
    pages::map_past_the_end_of_a_window_returns_0_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_build_v2", powernv, Scars;

    // UNMAP_DMA
    unmap::unmap_before_any_register_is_eperm, TCE_IOCTL, usable, Clean;
    unmap::unmap_with_a_short_argument_or_any_flag_is_einval, TCE_IOCTL, usable, Clean;
    unmap::unmap_creates_the_default_window, "vfio_iommu_spapr_tce.c: tce_iommu_create_default_window", usable, Clean;
    unmap::unmap_outside_all_windows_is_enxio, "vfio_iommu_spapr_tce.c: tce_iommu_find_table", usable, Clean;
    unmap::unmap_of_parts_of_iommu_pages_is_einval, TCE_IOCTL, usable, Clean;
    unmap::unmap_with_a_misaligned_iova_gives_1, "arch/powerpc/kernel/iommu.c: iommu_tce_check_ioba", usable, Clean;
    unmap::unmap_needs_no_match_with_what_was_mapped, "vfio_iommu_spapr_tce.c: tce_iommu_clear", usable, Clean;
    unmap::unmap_of_nothing_is_0_and_counts_no_bytes, "vfio_iommu_spapr_tce.c: tce_iommu_clear", usable, Clean;
    unmap::unmap_past_the_end_clears_what_is_inside_on_pseries, "vfio_iommu_spapr_tce.c: tce_iommu_clear", old_unmap_pseries, Clean;
    unmap::unmap_past_the_end_writes_past_the_table_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_clear", old_unmap_powernv, Scars;
    unmap::unmap_past_the_end_gives_1_and_clears_nothing_since_7_2_8, "arch/powerpc/kernel/iommu.c: iommu_tce_check_ioba", new_unmap, Clean;
    unmap::unmap_skips_leaves_that_are_not_there, "vfio_iommu_spapr_tce.c: tce_iommu_clear", after_power8, Clean;

    // REGISTER_MEMORY
    register::register_with_a_short_argument_or_any_flag_is_einval, TCE_IOCTL, every, Clean;
    register::register_of_parts_of_host_pages_is_einval, "vfio_iommu_spapr_tce.c: tce_iommu_register_pages", every, Clean;
    register::register_that_wraps_or_ends_at_2_64_is_einval, "vfio_iommu_spapr_tce.c: tce_iommu_register_pages", every, Clean;
    register::register_twice_in_a_container_is_ebusy, "vfio_iommu_spapr_tce.c: tce_iommu_register_pages", every, Clean;
    register::register_in_a_second_container_costs_nothing, "vfio_iommu_spapr_tce.c: tce_iommu_register_pages", usable, Clean;
    register::register_over_the_limit_is_enomem, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, Clean;
    register::registered_memory_is_counted_as_locked_even_without_a_limit, "mm/util.c: __account_locked_vm", every, Clean;
    register::register_of_no_bytes_is_enomem_and_warns, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, Scars;
    register::register_of_absurdly_much_is_enomem, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, Clean;
    register::register_of_what_cannot_be_written_is_efault, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, Clean;
    register::register_with_a_hole_gives_the_number_of_pages_before_it, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, Clean;
    register::register_counts_pages_within_a_chunk_of_2_mi, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, CleanModel;
    register::register_of_device_memory_is_efault, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, CleanModel;
    register::register_that_overlaps_is_einval_once_the_pages_are_pinned, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, Clean;
    register::register_enables_the_container_for_good, "vfio_iommu_spapr_tce.c: tce_iommu_register_pages", usable, Clean;
    register::register_needs_no_window, "vfio_iommu_spapr_tce.c: tce_iommu_register_pages", usable, Clean;
    register::register_that_fails_still_binds_the_process, "vfio_iommu_spapr_tce.c: tce_iommu_mm_set", every, Clean;
    abi::register_of_a_memfd_is_fine, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, CleanKernel;

    // UNREGISTER_MEMORY
    unregister::unregister_before_the_process_is_known_is_eperm, TCE_IOCTL, usable, Clean;
    unregister::unregister_of_parts_of_host_pages_is_einval, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Clean;
    unregister::unregister_of_anything_but_the_exact_range_is_enoent, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", every, Clean;
    unregister::unregister_of_what_only_another_container_registered_is_enoent, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Clean;
    unregister::unregister_gives_back_what_no_tce_points_into, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Clean;
    unregister::unregister_is_fine_while_mapped_as_long_as_another_container_holds_it, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Clean;
    unregister::close_of_a_container_unregisters_its_memory, "vfio_iommu_spapr_tce.c: tce_iommu_release", every, Clean;
    unregister::close_of_a_container_unmaps_before_it_unregisters, "vfio_iommu_spapr_tce.c: tce_iommu_release", usable, Clean;
    unregister::close_of_the_registrant_orphans_what_another_container_maps, "vfio_iommu_spapr_tce.c: tce_iommu_release", usable, Scars;
    unregister::unregister_while_mapped_returns_0_and_orphans_the_region, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Scars;
    unregister::orphan_can_still_be_mapped_and_unmapped, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Scars;
    unregister::orphan_is_never_given_back, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Scars;
    unregister::orphan_keeps_what_overlaps_it_from_registering, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Scars;
    unregister::orphan_outlives_its_container, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Scars;
    unregister::orphan_keeps_its_pages_until_reboot, "arch/powerpc/mm/book3s64/mmu_context.c: destroy_context", usable, Scars;

    // Traps between calls
    traps::create_that_the_platform_refuses_leaks_its_charge, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Scars;
    traps::create_over_the_limit_is_enomem_and_leaks_nothing, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;
    traps::create_charges_its_table_and_on_powernv_twice, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;
    traps::second_dynamic_window_puts_the_pe_out_of_use, "platforms/pseries/iommu.c: spapr_tce_create_table", pseries, Poison;
    traps::second_group_in_a_container_takes_its_windows_on_pseries, "platforms/pseries/iommu.c: spapr_tce_set_window", pseries, Scars;
    traps::detach_of_one_group_wipes_what_all_share, "vfio_iommu_spapr_tce.c: tce_iommu_detach_group", powernv, Clean;

    // Locked memory.
    locked::the_default_window_is_charged_when_it_comes, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;
    locked::v1_is_charged_for_the_table_as_well, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;
    locked::a_table_of_levels_is_charged_in_full_on_powernv, "platforms/powernv/pci-ioda.c: pnv_pci_ioda2_get_table_size", after_power8, Clean;
    locked::with_the_capability_locked_memory_is_counted_and_not_limited, "mm/util.c: __account_locked_vm", usable, Clean;
    locked::what_is_refused_before_the_charge_loses_nothing, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;

    // TCE_CREATE.
    create::create_checks_its_arguments_before_the_default_window_comes, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;
    create::create_looks_at_no_reserved_word, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;
    create::create_writes_back_the_start_and_only_when_it_succeeds, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;
    create::create_makes_the_pending_default_window_first, "vfio_iommu_spapr_tce.c: tce_iommu_create_default_window", usable, Clean;
    create::without_the_default_window_create_makes_one_window, "vfio_iommu_spapr_tce.c: tce_iommu_create_window", usable, Clean;
    create::a_third_window_gives_enospc, "vfio_iommu_spapr_tce.c: tce_iommu_find_free_table", usable, Clean;
    create::a_page_the_machine_lacks_gives_einval, "vfio_iommu_spapr_tce.c: tce_iommu_create_window", usable, Clean;
    create::a_page_shift_counts_by_its_low_seven_bits_in_6_12, "vfio_iommu_spapr_tce.c: tce_iommu_create_window", low_bits, Scars;
    create::a_page_shift_above_63_gives_einval_since_7_2, "vfio_iommu_spapr_tce.c: tce_iommu_create_window", all_bits, Clean;
    create::an_empty_table_gives_einval, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;
    create::a_slot_decides_where_a_window_starts_on_powernv, "platforms/powernv/pci-ioda.c: pnv_pci_ioda2_create_table", powernv, Clean;
    create::levels_over_55_bits_give_einval_on_powernv, "platforms/powernv/pci-ioda-tce.c: pnv_pci_ioda2_table_alloc_pages", powernv, Scars;
    create::a_small_window_is_larger_than_asked_on_powernv, "platforms/powernv/pci-ioda-tce.c: pnv_pci_ioda2_table_alloc_pages", powernv, Clean;
    create::a_large_window_at_0_covers_mmio_on_powernv, "platforms/powernv/pci-ioda.c: pnv_pci_ioda2_setup_default_config", powernv, Clean;
    create_pseries::the_default_window_and_a_dynamic_one_fit_on_pseries, "platforms/pseries/iommu.c: spapr_tce_create_table", pseries, Clean;
    create_pseries::a_dynamic_window_in_slot_0_lies_high_on_pseries, "platforms/pseries/iommu.c: spapr_tce_create_table", pseries, Clean;
    create_pseries::a_small_window_in_slot_0_is_a_default_window_on_pseries, "platforms/pseries/iommu.c: spapr_tce_create_table", pseries, Clean;
    create_pseries::slot_0_is_closed_while_a_dynamic_window_lives_on_pseries, "platforms/pseries/iommu.c: spapr_tce_create_table", pseries, Scars;
    create_pseries::more_than_one_level_gives_einval_and_loses_4_gib_on_pseries, "platforms/pseries/iommu.c: spapr_tce_get_table_size", pseries, Scars;
    create_pseries::too_large_a_window_gives_einval_and_poisons_nothing_on_pseries, "platforms/pseries/iommu.c: spapr_tce_create_table", pseries, Scars;
    create_pseries::a_window_below_its_page_makes_the_kernel_warn_on_pseries, "powerpc/kernel/iommu.c: iommu_init_table", pseries, Scars;
    create_pseries::every_try_on_a_pe_out_of_use_loses_a_charge_on_pseries, "platforms/pseries/iommu.c: spapr_tce_create_table", pseries, Poison;
    create_pseries::without_ddw_in_the_firmware_there_is_no_window_on_pseries, "platforms/pseries/iommu.c: spapr_tce_create_table", bare_firmware, Poison;
    create_pseries::the_only_window_is_available_once_the_default_one_is_gone_on_pseries, "platforms/pseries/iommu.c: spapr_tce_create_table", pseries, CleanModel;

    // TCE_REMOVE.
    remove::remove_checks_its_arguments_before_it_cancels, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;
    remove::remove_of_0_cancels_the_pending_default_window, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", usable, Clean;
    remove::a_removed_default_window_does_not_come_back, "vfio_iommu_spapr_tce.c: tce_iommu_remove_window", usable, Clean;
    remove::remove_takes_any_address_inside_a_window, "vfio_iommu_spapr_tce.c: tce_iommu_remove_window", usable, Clean;
    remove::remove_outside_all_windows_gives_einval, "vfio_iommu_spapr_tce.c: tce_iommu_remove_window", usable, Clean;
    remove::remove_unmaps_what_is_mapped_in_the_window, "vfio_iommu_spapr_tce.c: tce_iommu_remove_window", usable, Clean;
    remove::a_device_reaches_nothing_once_the_window_is_removed, "vfio_iommu_spapr_tce.c: tce_iommu_remove_window", usable, Clean;


    // EEH_PE_OP.
    eeh::eeh_gives_enodev_without_a_pe_on_pseries, "vfio_iommu_spapr_tce.c: vfio_spapr_ioctl_eeh_pe_op", pseries, Clean;
    eeh::eeh_operations_give_0_on_a_sound_pe_on_powernv, "powerpc/kernel/eeh.c: eeh_pe_reset", powernv, Clean;
    eeh::eeh_checks_its_argument_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_ioctl", powernv, Clean;
    eeh::eeh_injection_checks_function_then_type_then_firmware_on_powernv, "platforms/powernv/eeh-powernv.c: pnv_eeh_err_inject", powernv, Clean;
    eeh::eeh_state_is_a_positive_result_on_powernv, "powerpc/kernel/eeh.c: eeh_pe_get_state", powernv, CleanModel;

    // Huge pages.
    backing::ordinary_memory_supports_pages_up_to_the_hosts, "mm/book3s64/iommu_api.c: mm_iommu_do_alloc", usable, Clean;
    backing::an_iommu_page_above_the_hosts_wants_hugetlb_memory, "mm/book3s64/iommu_api.c: mm_iommu_do_alloc", large_usable, Clean;
    backing::hugetlb_memory_supports_its_own_page, "mm/book3s64/iommu_api.c: mm_iommu_do_alloc", large_hugetlb, CleanHuge;
    backing::hugetlb_memory_registered_in_part_supports_less, "mm/book3s64/iommu_api.c: mm_iommu_do_alloc", large_hugetlb, CleanHuge;
    backing::small_pages_after_hugetlb_give_eperm_where_they_are_mapped, "vfio_iommu_spapr_tce.c: tce_page_is_contained", large_pseries, CleanModel;

    // Groups, devices, files.
    ownership::a_groups_status_says_viable_and_then_in_a_container, "vfio/group.c: vfio_group_ioctl_get_status", every, Clean;
    ownership::set_container_and_unset_container_want_their_turn, "vfio/group.c: vfio_group_ioctl_set_container", every, Clean;
    ownership::a_group_with_a_host_driver_gives_eperm, "iommu/iommu.c: iommu_group_claim_dma_owner", every, CleanModel;
    ownership::a_device_opens_only_after_set_iommu, "vfio/group.c: vfio_group_ioctl_get_device_fd", usable, Clean;
    ownership::a_device_file_holds_its_group, "vfio/group.c: vfio_group_ioctl_unset_container", usable, Clean;
    ownership::a_closed_container_lives_while_groups_are_in_it, "vfio/container.c: vfio_container_put", usable, Clean;
    sharing::v1_takes_one_group, "vfio_iommu_spapr_tce.c: tce_iommu_attach_group", usable, Clean;
    sharing::a_group_that_joins_sees_what_is_mapped_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_attach_group", powernv, Clean;
    sharing::a_group_does_not_join_anothers_window_on_pseries, "platforms/pseries/iommu.c: spapr_tce_set_window", pseries, Clean;
    sharing::the_default_window_is_pending_for_the_first_group_alone_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_attach_group", powernv, Clean;
    sharing::a_group_that_leaves_takes_the_maps_from_the_devices_of_others_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_release_ownership", powernv, Clean;
    sharing::the_last_group_takes_everything_along, "vfio_iommu_spapr_tce.c: tce_iommu_release", usable, Clean;
    sharing::a_group_that_comes_back_has_all_its_windows_again, "vfio_iommu_spapr_tce.c: tce_iommu_attach_group", usable, Clean;

    // What belongs to a process.
    ownership::a_failed_create_binds_the_container, "vfio_iommu_spapr_tce.c: tce_iommu_mm_set", usable, Clean;
    ownership::a_container_maps_what_another_registered, "mm/book3s64/iommu_api.c: mm_iommu_lookup", usable, Clean;

    // Bare metal and partitions.
    info::the_default_window_starts_at_0_with_4k_pages, "vfio_iommu_spapr_tce.c: tce_iommu_create_default_window", usable, Clean;
    info::no_way_around_the_tables_is_left_on_powernv, "platforms/powernv/pci-ioda.c: pnv_ioda2_take_ownership", powernv, Clean;

    // Calls that end the machine
    traps::map_past_the_end_of_a_window_is_an_oops_on_pseries, "vfio_iommu_spapr_tce.c: tce_iommu_unuse_page_v2", pseries, Fatal;
    traps::map_of_no_bytes_at_0_hangs_power8, "platforms/powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
    traps::unmap_of_no_bytes_at_0_hangs_power8, "platforms/powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
    traps::map_at_0_that_fails_at_once_hangs_power8, "platforms/powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
};

/// Rules that no test can show.
#[rustfmt::skip]
pub(crate) const UNSHOWN: &[Unshown] = &[
    Unshown { name: "info_of_a_container_without_groups_is_enxio", place: TCE_IOCTL,
        why: "the driver goes with the last group, and EINVAL comes first" },
    Unshown { name: "enable_of_a_container_without_groups_is_enodev", place: TCE_ENABLE,
        why: "as above" },
    Unshown { name: "info_or_enable_of_a_group_without_tables_fails", place: TCE_IOCTL,
        why: "ENXIO and ENODEV: no such group gets through SET_IOMMU" },
    Unshown { name: "enable_without_a_default_window_is_eperm", place: TCE_ENABLE,
        why: "every machine at hand has one" },
    Unshown { name: "info_is_that_of_the_newest_group", place: TCE_IOCTL,
        why: "all PHBs of a machine at hand have the same windows; a space refuses a group whose differ" },
    Unshown { name: "info_of_a_4_gib_default_window_reads_0", place: TCE_IOCTL,
        why: "no machine at hand has one; the library takes 0 for no default window" },
    Unshown { name: "map_while_another_thread_unregisters_stops_with_0", place: "vfio_iommu_spapr_tce.c: tce_iommu_build_v2",
        why: "a race; the library serialises, and never unregisters what is mapped" },
    Unshown { name: "map_on_v1_of_pages_smaller_than_the_iommu_page_leaks_a_pin", place: "vfio_iommu_spapr_tce.c: tce_iommu_build",
        why: "v1 has the 4 KiB default window alone, and no host page is smaller" },
    Unshown { name: "map_on_v1_pins_a_host_page_once_for_each_iommu_page", place: "vfio_iommu_spapr_tce.c: tce_iommu_use_page",
        why: "user space sees no count of pins" },
    Unshown { name: "unmap_skips_tces_that_the_hypervisor_refuses_to_clear", place: "vfio_iommu_spapr_tce.c: tce_iommu_clear",
        why: "no hypervisor at hand refuses one inside a window" },
    Unshown { name: "region_is_lost_when_tces_are_cleared_behind_vfio", place: "vfio_iommu_spapr_tce.c: tce_iommu_release",
        why: "a reset of windows by firmware cannot be provoked" },
    Unshown { name: "register_of_a_file_system_s_shared_pages_is_efault", place: "mm/gup.c: writable_file_mapping_allowed",
        why: "the machines have no such file system; the library reads it from the mapping" },
    Unshown { name: "vfio_pci_cannot_bind_from_5_19_to_6_3", place: "drivers/vfio/vfio_main.c: vfio_group_find_or_alloc",
        why: "no such kernel is at hand; `Obstacle::KernelTooOld`, tested on a tree of files in src/host/vfio/tests.rs" },
    Unshown { name: "driver_module_loads_with_vfio", place: "drivers/vfio/Kconfig: VFIO_IOMMU_SPAPR_TCE",
        why: "available machines load modules by name; `Obstacle::NoModule` names the missing one" },
    Unshown { name: "a_pe_that_vfio_cannot_serve_does_not_attach", place: "vfio_iommu_spapr_tce.c: tce_iommu_attach_group", why: "no machine at hand has such a group" },
    Unshown { name: "the_firmware_may_refuse_any_window", place: "platforms/pseries/iommu.c: spapr_tce_create_table", why: "QEMU's firmware refuses none it has room for" },
    Unshown { name: "a_level_of_16_mib_fails_once_memory_is_fragmented", place: "platforms/powernv/pci-ioda-tce.c: pnv_alloc_tce_level", why: "depends on the machine's past" },
    Unshown { name: "first_maps_at_once_make_the_default_window_twice", place: "vfio_iommu_spapr_tce.c: tce_iommu_create_default_window", why: "a race" },
    Unshown { name: "maps_race_with_the_removal_of_their_window", place: "vfio_iommu_spapr_tce.c: tce_iommu_find_table", why: "a race" },
    Unshown { name: "a_pseries_table_without_its_user_addresses_is_null", place: "platforms/pseries/iommu.c: spapr_tce_create_table", why: "wants a machine out of memory" },
    Unshown { name: "failed_creates_lose_a_structure_on_pseries", place: "platforms/pseries/iommu.c: spapr_tce_create_table", why: "not seen from outside" },
    Unshown { name: "eeh_state_takes_an_error_for_bits", place: "powerpc/kernel/eeh.c: eeh_pe_get_state", why: "wants a platform that fails to answer" },
    Unshown { name: "files_close_last_opened_first_when_a_process_ends", place: "fs/file_table.c: fput", why: "`tests/kernel` shows it" },
    Unshown { name: "tces_are_set_one_hypercall_at_a_time_on_pseries", place: "platforms/pseries/iommu.c: tce_exchange_pseries", why: "the hypervisor sees it alone" },
];

const DOCUMENT: &str = include_str!("../../docs/kernel-contract.md");

/// Returns names and files of the links to tests.
fn links() -> Vec<(&'static str, &'static str)> {
    let parts = DOCUMENT.split("](../tests/contract/").collect::<Vec<_>>();
    let pairs = parts.windows(2).filter_map(|pair| {
        let name = pair[0].rsplit('[').next()?.trim_matches('`');
        Some((name, pair[1].split(')').next()?.strip_suffix(".rs")?))
    });
    pairs.collect()
}

/// Each rule is in the document, and each link of the document leads to a rule.
pub(crate) fn document_names_each_rule() -> Result<(), Failed> {
    let links = links();
    let missing: Vec<_> = RULES.iter().filter(|rule| !links.contains(&(rule.name, rule.file))).collect();
    let missing: Vec<_> =
        missing.iter().map(|rule| format!("[`{}`](../tests/contract/{}.rs)", rule.name, rule.file)).collect();
    let unknown: Vec<_> =
        links.iter().filter(|link| !RULES.iter().any(|rule| **link == (rule.name, rule.file))).collect();
    let untold: Vec<_> = UNSHOWN.iter().map(|rule| rule.name).filter(|name| !DOCUMENT.contains(name)).collect();
    if missing.is_empty() && unknown.is_empty() && untold.is_empty() {
        return Ok(());
    }
    Err(format!("not in the document: {missing:#?} {untold:#?}; in no table: {unknown:#?}").into())
}

/// Names are unique, and every entry names the place in the kernel.
pub(crate) fn table_is_whole() -> Result<(), Failed> {
    let mut seen = BTreeSet::new();
    let places =
        RULES.iter().map(|rule| (rule.name, rule.place)).chain(UNSHOWN.iter().map(|rule| (rule.name, rule.place)));
    for (name, place) in places {
        if !seen.insert(name) {
            return Err(format!("{name} is in the table twice").into());
        }
        if !place.contains(": ") {
            return Err(format!("{name}: {place:?} is not a file and function").into());
        }
    }
    if UNSHOWN.iter().any(|rule| rule.why.is_empty()) || !RULES.iter().any(|rule| rule.leaves == Leaves::Fatal) {
        return Err("a reason is missing".into());
    }
    Ok(())
}
