//! Which rules are shown, where, and in which process.

use crate::document;
use crate::fixture::{Fixture, Part};
use crate::rule::{Leaves, Rule};
use crate::rules::RULES;
use libtest_mimic::{Failed, Trial};
use spapr_iommu::host::Host;
use spapr_iommu::host::vfio::Vfio;
use spapr_iommu::model::Preset;
use spapr_iommu_tests::huge;
use spapr_iommu_tests::machine;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The models of all cells, of a machine that is in none, and of kernels before and after a fix of
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

/// Poisoned groups so far: each such rule takes the next one.
static POISONED: AtomicUsize = AtomicUsize::new(0);

/// On a POWER machine the running kernel and the model like it; elsewhere all models. `costly`:
/// what leaves scars on the running kernel, and nothing else.
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
        Trial::test("the_document_names_each_rule", document::names_each_rule),
        Trial::test("the_table_is_whole", document::table_is_whole),
    ];
    // What poisons a group comes last: the others use it too.
    let poison = |rule: &&Rule| rule.leaves == Leaves::Poison;
    for rule in RULES.iter().filter(|rule| !poison(rule)).chain(RULES.iter().filter(poison)) {
        if let Some(preset) = real.filter(rule.on).filter(|_| rule.leaves != Leaves::CleanModel) {
            // Of a rule that costs something, the library's part costs nothing.
            let kind = if rule.leaves.clean() { "kernel" } else { "library" };
            let part = if rule.leaves.clean() { Part::Whole } else { Part::Library };
            let poor = rule.leaves == Leaves::CleanHuge && huge::huge_pages(preset.huge_pages()).is_empty();
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
        // A group that is poisoned is of no use to the next rule.
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

/// In a process of its own, which takes what it lost along.
fn apart(rule: &Rule, preset: Preset, group: usize) -> Result<(), Failed> {
    let arguments = ["--alone", rule.name, "--preset", &preset.to_string(), "--group", &group.to_string()];
    let output = Command::new("/proc/self/exe").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    Err(format!("{}: {said}", output.status).into())
}

/// One rule in this process, on the running kernel.
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
