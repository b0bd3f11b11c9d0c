//! What a rule of the contract is, and which rules are shown where and in which process.

use crate::fixture::{Fixture, Part};
use crate::rules::{self, RULES};
use libtest_mimic::{Failed, Trial};
use spapr_iommu::host::Host;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::model::{Firmware, HostPage, Machine, Preset};
use spapr_iommu_tests::machine;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A rule of the kernel's interface, with the test that shows it.
pub(crate) struct Rule {
    /// The test's name, which states the rule.
    pub(crate) name: &'static str,
    /// The file of the test, without its ending.
    pub(crate) file: &'static str,
    /// Place in the kernel: a file, or a word of `rules.rs` for one, and the function.
    pub(crate) place: &'static str,
    /// Whether it applies to a machine.
    pub(crate) on: fn(&Preset) -> bool,
    /// The state in which it leaves the machine.
    pub(crate) leaves: Leaves,
    /// The test.
    pub(crate) show: fn(&Fixture),
}

/// A rule that cannot be shown, and the reason.
pub(crate) struct Unshown {
    /// Its name.
    pub(crate) name: &'static str,
    /// Place in the kernel.
    pub(crate) place: &'static str,
    /// Why no test shows it.
    pub(crate) why: &'static str,
}

/// The state in which a rule leaves a real machine. On the model it always runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaves {
    /// Unchanged. Runs alongside others.
    Clean,
    /// Unchanged, and the model has no equivalent: only the running kernel is asked.
    CleanKernel,
    /// Unchanged, and no available machine can show it: only the model is asked.
    CleanModel,
    /// Unchanged. Needs hugetlb pages, which a model has: `ppc64/run --hugepages N`.
    CleanHuge,
    /// Something is orphaned, leaked or logged until reboot: runs in a process of its own, with
    /// `--scars`.
    Scars,
    /// A group gets no windows until reboot: runs in a process of its own too, with a group of its
    /// own.
    Poison,
    /// Crashed: runs alone, with `--fatal NAME`.
    Fatal,
}

impl Leaves {
    /// Returns whether the machine is unchanged.
    pub(crate) fn clean(self) -> bool {
        !matches!(self, Self::Scars | Self::Poison | Self::Fatal)
    }
}

/// Every machine.
pub(crate) fn every(_: &Preset) -> bool {
    true
}

/// Machines whose devices can have windows: all except pseries without dynamic windows.
pub(crate) fn usable(preset: &Preset) -> bool {
    !bare_firmware(preset)
}

/// Machines that have windows of pages above the host page size.
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

/// Bare metal that invalidates a range of TCEs by one call, not page by page.
pub(crate) fn after_power8(preset: &Preset) -> bool {
    powernv(preset) && !power8(preset)
}

/// pseries kernels that let UNMAP run past a window's end.
pub(crate) fn old_unmap_pseries(preset: &Preset) -> bool {
    pseries(preset) && !preset.kernel.bounds_unmap()
}

/// powernv kernels that let UNMAP run past a window's end.
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

/// Machines with windows and hugetlb pages.
pub(crate) fn hugetlb(preset: &Preset) -> bool {
    usable(preset) && !preset.huge_pages().is_empty()
}

/// pseries kernels that use only the low bits of a page shift.
pub(crate) fn low_bits(preset: &Preset) -> bool {
    pseries(preset) && !preset.kernel.bounds_page_shift()
}

/// Kernels that use all of it.
pub(crate) fn all_bits(preset: &Preset) -> bool {
    usable(preset) && preset.kernel.bounds_page_shift()
}

/// The models of all cells, of a machine that is in none, and of kernels before and after a fix in
/// their series.
const PRESETS: [&str; 12] = [
    "powernv8-64k-6.12",
    "powernv9-4k-6.12",
    "powernv9-64k-6.12",
    "powernv9-64k-6.12.112",
    "powernv9-64k-7.2.0",
    "powernv9-64k-7.2",
    "powernv10-64k-6.12",
    "pseries-4k-6.12",
    "pseries-64k-6.12",
    "pseries-64k-6.12.112",
    "pseries-64k-7.2",
    "pseries-noddw",
];

/// Number of poisoned groups so far: each such rule uses the next one.
static POISONED: AtomicUsize = AtomicUsize::new(0);

/// Shows rules: on a POWER machine on the running kernel and the model like it; elsewhere on all
/// models. With `costly`, only those that leave scars on the running kernel.
pub(crate) fn trials(given: Option<Preset>, costly: bool) -> Result<Vec<Trial>, String> {
    let host = Vfio::new();
    let real = host.platform().map(|_| given.map_or_else(|| machine::preset(&host), Ok)).transpose()?;
    if costly {
        return Ok(scars(real));
    }
    let models = match real.or(given) {
        Some(preset) => vec![preset],
        None => {
            PRESETS.iter().map(|name| name.parse::<Preset>()).collect::<Result<_, _>>().map_err(|e| e.to_string())?
        }
    };
    let mut trials = vec![
        Trial::test("the_document_names_each_rule", rules::document_names_each_rule),
        Trial::test("the_table_is_whole", rules::table_is_whole),
    ];
    // Rules that poison a group come last, because the others use it too.
    let poison = |rule: &&Rule| rule.leaves == Leaves::Poison;
    for rule in RULES.iter().filter(|rule| !poison(rule)).chain(RULES.iter().filter(poison)) {
        if let Some(preset) = real.filter(rule.on).filter(|_| rule.leaves != Leaves::CleanModel) {
            // Of a rule that does lasting harm, the library's part does none.
            let kind = if rule.leaves.clean() { "kernel" } else { "library" };
            let part = if rule.leaves.clean() { Part::Whole } else { Part::Library };
            let poor = rule.leaves == Leaves::CleanHuge && machine::huge_pages(preset.huge_pages()).is_empty();
            let trial = Trial::test(rule.name, move || here(rule, preset, 0, part));
            trials.push(trial.with_kind(kind).with_ignored_flag(poor));
        }
        for preset in models.iter().copied().filter(rule.on).filter(|_| rule.leaves != Leaves::CleanKernel) {
            let show = move || {
                let fixture = Fixture::model(preset);
                (rule.show)(&fixture);
                fixture.ends(rule.leaves);
                Ok(())
            };
            trials.push(Trial::test(rule.name, show).with_kind(format!("model:{preset}")));
        }
    }
    Ok(trials)
}

/// Rules that leave scars on the running kernel.
fn scars(real: Option<Preset>) -> Vec<Trial> {
    let costly = |rule: &&Rule| matches!(rule.leaves, Leaves::Scars | Leaves::Poison);
    let trial = |rule: &'static Rule| {
        let preset = real.filter(rule.on)?;
        // A poisoned group is useless to the next rule.
        let group = move || match rule.leaves {
            Leaves::Poison => 2 + POISONED.fetch_add(1, Ordering::Relaxed),
            _ => 0,
        };
        Some(Trial::test(rule.name, move || apart(rule, preset, group())).with_kind("kernel"))
    };
    RULES.iter().filter(costly).filter_map(trial).collect()
}

fn here(rule: &Rule, preset: Preset, group: usize, part: Part) -> Result<(), Failed> {
    let fixture = Fixture::running(preset, group, part)?;
    (rule.show)(&fixture);
    fixture.ends(rule.leaves);
    Ok(())
}

/// Runs a rule in a process of its own, so that what it lost ends with that process.
fn apart(rule: &Rule, preset: Preset, group: usize) -> Result<(), Failed> {
    let arguments = ["--alone", rule.name, "--preset", &preset.to_string(), "--group", &group.to_string()];
    let output = Command::new("/proc/self/exe").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    Err(format!("{}: {said}", output.status).into())
}

/// Shows one rule in this process, on the running kernel.
pub(crate) fn alone(name: &str, preset: Option<Preset>, group: usize, part: Part) -> ExitCode {
    let Some(rule) = RULES.iter().find(|rule| rule.name == name) else {
        eprintln!("contract: no rule {name}");
        return ExitCode::FAILURE;
    };
    let preset = preset.map_or_else(|| machine::preset(&Vfio::new()), Ok);
    let shown = preset.and_then(|preset| {
        if !(rule.on)(&preset) {
            return Err(format!("{name} does not hold on {preset}"));
        }
        catch_unwind(AssertUnwindSafe(|| here(rule, preset, group, part)))
            .map_err(|_| "it panicked".to_owned())?
            .map_err(|failed| failed.message().unwrap_or("it failed").to_owned())
    });
    match shown {
        Ok(()) => {
            println!("{name}: ok");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("contract: {name}: {error}");
            ExitCode::FAILURE
        }
    }
}
