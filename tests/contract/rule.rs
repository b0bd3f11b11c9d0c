//! What a rule of the contract is.

use crate::fixture::Fixture;
use spapr_iommu::model::{Firmware, HostPage, Machine, Preset};

/// A rule of the kernel's interface, with the test that shows it.
pub(crate) struct Rule {
    /// The test's name, which says the rule.
    pub(crate) name: &'static str,
    /// The file of the test, without its ending.
    pub(crate) file: &'static str,
    /// Where in the kernel it is: a file, or a word of `rules.rs` for one, and the function.
    pub(crate) place: &'static str,
    /// Whether it holds on a machine.
    pub(crate) on: fn(&Preset) -> bool,
    /// How it leaves the machine.
    pub(crate) leaves: Leaves,
    /// The test.
    pub(crate) show: fn(&Fixture),
}

/// A rule that cannot be shown, and why.
pub(crate) struct Unshown {
    /// Its name.
    pub(crate) name: &'static str,
    /// Where in the kernel it is.
    pub(crate) place: &'static str,
    /// Why no test shows it.
    pub(crate) why: &'static str,
}

/// How a rule leaves a real machine. On the model it always runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// As it was. Runs beside others.
    Clean,
    /// As it was, and the model has nothing like it: the running kernel alone is asked.
    CleanKernel,
    /// As it was, and the machines at hand cannot show it: the model alone is asked.
    CleanModel,
    /// As it was. Wants hugetlb pages, which a model has: `ppc64/run --hugepages N`.
    CleanHuge,
    /// Something is orphaned, leaked or logged until reboot: in a process of its own, with
    /// `--scars`.
    Scars,
    /// A group gets no windows any more until reboot: likewise, with a group of its own.
    Poison,
    /// Dead: alone, with `--fatal NAME`.
    Fatal,
}

impl Leaves {
    /// Whether nothing is left behind.
    pub(crate) fn clean(self) -> bool {
        !matches!(self, Self::Scars | Self::Poison | Self::Fatal)
    }
}

/// Every machine.
pub(crate) fn every(_: &Preset) -> bool {
    true
}

/// Machines whose devices can have windows: all but pseries without dynamic windows.
pub(crate) fn usable(preset: &Preset) -> bool {
    !bare_firmware(preset)
}

/// Machines that have windows of pages above the host's.
pub(crate) fn large_usable(preset: &Preset) -> bool {
    let small = matches!(preset.machine, Machine::Pseries(firmware) if firmware.page_sizes >> 21 == 0);
    usable(preset) && !small
}

/// Partitions and guests that have such windows.
pub(crate) fn large_pseries(preset: &Preset) -> bool {
    pseries(preset) && large_usable(preset)
}

/// Machines that have such windows, and hugetlb pages.
pub(crate) fn large_hugetlb(preset: &Preset) -> bool {
    hugetlb(preset) && large_usable(preset)
}

/// pseries whose firmware has no dynamic windows.
pub(crate) fn bare_firmware(preset: &Preset) -> bool {
    matches!(preset.machine, Machine::Pseries(Firmware { ddw: false, .. }))
}

/// Bare metal.
pub(crate) fn powernv(preset: &Preset) -> bool {
    !matches!(preset.machine, Machine::Pseries(_))
}

/// Partitions and guests, with windows.
pub(crate) fn pseries(preset: &Preset) -> bool {
    matches!(preset.machine, Machine::Pseries(Firmware { ddw: true, .. }))
}

/// Bare-metal POWER8.
pub(crate) fn power8(preset: &Preset) -> bool {
    preset.machine == Machine::Powernv8
}

/// Bare metal that is told of a range of TCEs in one call, not of each page apart.
pub(crate) fn after_power8(preset: &Preset) -> bool {
    powernv(preset) && !power8(preset)
}

/// pseries kernels that let UNMAP run past a window's end.
pub(crate) fn old_unmap_pseries(preset: &Preset) -> bool {
    pseries(preset) && !preset.kernel.bounds_unmap()
}

/// Likewise, on bare metal.
pub(crate) fn old_unmap_powernv(preset: &Preset) -> bool {
    powernv(preset) && !preset.kernel.bounds_unmap()
}

/// Kernels that refuse such an UNMAP.
pub(crate) fn new_unmap(preset: &Preset) -> bool {
    usable(preset) && preset.kernel.bounds_unmap()
}

/// Host pages of 4 KiB.
pub(crate) fn small_pages(preset: &Preset) -> bool {
    preset.page == HostPage::Small
}

/// Machines with windows and pages of hugetlb.
pub(crate) fn hugetlb(preset: &Preset) -> bool {
    usable(preset) && !preset.huge_pages().is_empty()
}

/// pseries kernels that take a page shift by its low bits.
pub(crate) fn low_bits(preset: &Preset) -> bool {
    pseries(preset) && !preset.kernel.bounds_page_shift()
}

/// Kernels that take it as it is.
pub(crate) fn all_bits(preset: &Preset) -> bool {
    usable(preset) && preset.kernel.bounds_page_shift()
}
