//! Every rule: the file and name of its test, where in the kernel it is, where it holds, how it leaves the machine.

use crate::rule::*;
use crate::{bare, core, fatal, info, map, orphan, pages, register, traps, unmap, unregister, v1};
use Leaves::*;

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
    bare::arguments_that_fault_are_efault, TCE_IOCTL, usable, CleanKernel;
    bare::arguments_larger_than_their_structure_are_fine, TCE_IOCTL, every, CleanKernel;
    bare::numbers_of_other_architectures_are_unknown, "arch/powerpc/include/uapi/asm/ioctl.h: _IOC_NONE", every, CleanKernel;
    bare::calls_of_another_process_are_eperm_once_one_is_bound, "vfio_iommu_spapr_tce.c: tce_iommu_mm_set", usable, CleanKernel;
    bare::devices_have_no_files_of_their_own, "drivers/vfio/Kconfig: VFIO_DEVICE_CDEV", every, CleanKernel;
    // GET_INFO
    info::info_tells_the_machines_windows, TCE_IOCTL, every, Clean;
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
    map::map_without_a_right_is_einval, TCE_IOCTL, usable, Clean;
    map::map_with_a_misaligned_iova_gives_1, "arch/powerpc/include/asm/iommu.h: iommu_tce_put_param_check", usable, Clean;
    map::map_looks_for_the_window_then_size_then_right_then_iova, TCE_IOCTL, usable, Clean;
    map::map_uses_the_page_of_the_window_that_holds_the_iova, "vfio_iommu_spapr_tce.c: tce_iommu_find_table", usable, Clean;
    map::no_positive_result_passes_for_success, TCE_IOCTL, usable, Clean;
    map::map_and_unmap_of_no_bytes_return_0, TCE_IOCTL, usable, Scars;

    // MAP_DMA, page by page
    pages::map_of_unregistered_memory_is_einval, "vfio_iommu_spapr_tce.c: tce_iommu_prereg_ua_to_hpa", usable, Clean;
    pages::map_goes_on_from_one_region_into_its_neighbour, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_lookup", usable, Clean;
    pages::map_of_a_page_in_two_regions_is_einval, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_lookup", pseries, CleanHuge;
    pages::map_takes_memory_at_any_iommu_page_of_a_host_page, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_ua_to_hpa", usable, Clean;
    pages::map_over_a_mapping_replaces_it_silently, "vfio_iommu_spapr_tce.c: tce_iommu_build_v2", usable, Clean;
    pages::map_that_fails_destroys_what_it_covered_and_keeps_the_rest, "vfio_iommu_spapr_tce.c: tce_iommu_build_v2", usable, Clean;
    pages::map_that_the_kernel_fails_is_put_back_and_not_tried_again, "platforms/pseries/iommu.c: tce_exchange_pseries", usable, Clean;
    pages::map_of_memory_that_is_gone_leads_to_its_old_pages, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_ua_to_hpa", usable, Clean;
    pages::map_for_writing_only_denies_reads_on_pseries_alone, "platforms/powernv/pci-ioda-tce.c: pnv_tce_xchg", usable, Clean;
    pages::map_past_the_end_of_a_small_window_is_eintr_and_leaks_a_count, "vfio_iommu_spapr_tce.c: tce_iommu_build_v2", pseries, Scars;
    pages::map_past_the_end_of_a_window_returns_0_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_build_v2", powernv, Scars;

    // UNMAP_DMA
    unmap::unmap_before_any_register_is_eperm, TCE_IOCTL, usable, Clean;
    unmap::unmap_with_a_short_argument_or_any_flag_is_einval, TCE_IOCTL, usable, Clean;
    unmap::unmap_creates_the_default_window, "vfio_iommu_spapr_tce.c: tce_iommu_create_default_window", usable, Clean;
    unmap::unmap_outside_all_windows_is_enxio, "vfio_iommu_spapr_tce.c: tce_iommu_find_table", usable, Clean;
    unmap::unmap_of_parts_of_iommu_pages_is_einval, TCE_IOCTL, usable, Clean;
    unmap::unmap_with_a_misaligned_iova_gives_1, "arch/powerpc/kernel/iommu.c: iommu_tce_check_ioba", usable, Clean;
    unmap::unmap_needs_no_match_with_what_was_mapped, "vfio_iommu_spapr_tce.c: tce_iommu_clear", usable, Clean;
    unmap::unmap_of_nothing_is_0_and_tells_no_bytes, "vfio_iommu_spapr_tce.c: tce_iommu_clear", usable, Clean;
    unmap::unmap_past_the_end_clears_what_is_inside_on_pseries, "vfio_iommu_spapr_tce.c: tce_iommu_clear", old_unmap_pseries, Clean;
    unmap::unmap_past_the_end_writes_behind_the_table_on_powernv, "vfio_iommu_spapr_tce.c: tce_iommu_clear", old_unmap_powernv, Scars;
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
    register::register_with_a_hole_behind_gives_the_pages_before_it, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, Clean;
    register::register_counts_pages_within_a_chunk_of_2_mi, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, CleanModel;
    register::register_of_device_memory_is_efault, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, CleanModel;
    register::register_that_overlaps_is_einval_once_the_pages_are_pinned, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, Clean;
    register::register_enables_the_container_for_good, "vfio_iommu_spapr_tce.c: tce_iommu_register_pages", usable, Clean;
    register::register_needs_no_window, "vfio_iommu_spapr_tce.c: tce_iommu_register_pages", usable, Clean;
    register::register_that_fails_still_binds_the_process, "vfio_iommu_spapr_tce.c: tce_iommu_mm_set", every, Clean;
    bare::register_of_a_memfd_is_fine, "arch/powerpc/mm/book3s64/iommu_api.c: mm_iommu_do_alloc", every, CleanKernel;

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
    orphan::unregister_while_mapped_returns_0_and_orphans_the_region, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Scars;
    orphan::orphan_can_still_be_mapped_and_unmapped, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Scars;
    orphan::orphan_is_never_given_back, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Scars;
    orphan::orphan_keeps_what_overlaps_it_from_registering, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Scars;
    orphan::orphan_outlives_its_container, "vfio_iommu_spapr_tce.c: tce_iommu_unregister_pages", usable, Scars;
    orphan::orphan_keeps_its_pages_until_reboot, "arch/powerpc/mm/book3s64/mmu_context.c: destroy_context", usable, Scars;

    // Traps between calls
    traps::create_that_the_platform_refuses_leaks_its_charge, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Scars;
    traps::create_over_the_limit_is_enomem_and_leaks_nothing, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;
    traps::create_charges_its_table_and_on_powernv_twice, "vfio_iommu_spapr_tce.c: tce_iommu_create_table", usable, Clean;
    traps::second_dynamic_window_puts_the_pe_out_of_use, "platforms/pseries/iommu.c: spapr_tce_create_table", pseries, Poison;
    traps::second_group_in_a_container_takes_its_windows_on_pseries, "platforms/pseries/iommu.c: spapr_tce_set_window", pseries, Scars;
    traps::detach_of_one_group_wipes_what_all_share, "vfio_iommu_spapr_tce.c: tce_iommu_detach_group", powernv, Clean;

    // Calls that end the machine
    fatal::map_past_the_end_of_a_window_is_an_oops_on_pseries, "vfio_iommu_spapr_tce.c: tce_iommu_unuse_page_v2", pseries, Fatal;
    fatal::map_of_no_bytes_at_0_hangs_power8, "platforms/powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
    fatal::unmap_of_no_bytes_at_0_hangs_power8, "platforms/powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
    fatal::map_at_0_that_fails_at_once_hangs_power8, "platforms/powernv/pci-ioda.c: pnv_pci_phb3_tce_invalidate", power8, Fatal;
};

/// Rules that no test can show.
#[rustfmt::skip]
pub(crate) const UNSHOWN: &[Unshown] = &[
    Unshown { name: "info_of_a_container_without_groups_is_enxio", place: TCE_IOCTL,
        why: "the driver goes with the last group, and EINVAL comes first" },
    Unshown { name: "enable_of_a_container_without_groups_is_enodev", place: TCE_ENABLE,
        why: "likewise" },
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
        why: "machines at hand load modules by name; `Obstacle::NoModule` tells which is missing" },
];
