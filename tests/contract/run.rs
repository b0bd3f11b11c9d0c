//! Which rules are shown, where, and in which process.

use crate::ground::{Ground, Part};
use crate::rule::{Leaves, Rule};
use crate::rules::RULES;
use crate::{document, huge, machine};
use libtest_mimic::{Failed, Trial};
use spapr_iommu::host::Host;
use spapr_iommu::host::model::Preset;
use spapr_iommu::host::vfio::Vfio;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The models of all cells, and of a machine that is in none.
const PRESETS: [&str; 9] = [
    "powernv8-64k-6.12",
    "powernv9-4k-6.12",
    "powernv9-64k-6.12",
    "powernv9-64k-7.2",
    "powernv10-64k-6.12",
    "pseries-4k-6.12",
    "pseries-64k-6.12",
    "pseries-64k-7.2",
    "pseries-noddw",
];

/// Poisoned groups so far: each such rule takes the next one.
static POISONED: AtomicUsize = AtomicUsize::new(0);

/// On a POWER machine the running kernel and the model like it; elsewhere all models.
pub(crate) fn trials(scars: bool) -> Result<Vec<Trial>, String> {
    let host = Vfio::new();
    let real = host.platform().map(|_| machine::preset(&host)).transpose()?;
    let models = match real {
        Some(preset) => vec![preset],
        None => {
            PRESETS.iter().map(|name| name.parse::<Preset>()).collect::<Result<_, _>>().map_err(|e| e.to_string())?
        }
    };
    let mut trials = vec![
        Trial::test("the_document_names_each_rule", document::names_each_rule),
        Trial::test("the_table_is_whole", document::table_is_whole),
    ];
    for rule in RULES {
        if let Some(preset) = real.filter(rule.on).filter(|_| rule.leaves != Leaves::CleanModel) {
            let show = move || on_kernel(rule, preset, scars);
            let poor = rule.leaves == Leaves::CleanHuge && huge::huge_pages(preset.huge_pages()).is_empty();
            trials.push(Trial::test(rule.name, show).with_kind("kernel").with_ignored_flag(poor));
        }
        for preset in models.iter().copied().filter(rule.on).filter(|_| rule.leaves != Leaves::CleanKernel) {
            let show = move || {
                let ground = Ground::model(preset);
                (rule.show)(&ground);
                ground.ends(rule.leaves);
                Ok(())
            };
            trials.push(Trial::test(rule.name, show).with_kind(format!("model:{preset}")));
        }
    }
    Ok(trials)
}

/// On the running kernel.
fn on_kernel(rule: &'static Rule, preset: Preset, scars: bool) -> Result<(), Failed> {
    match rule.leaves {
        leaves if leaves.clean() => here(rule, preset, 0, Part::Whole),
        Leaves::Scars if scars => apart(rule, 0),
        Leaves::Poison if scars => apart(rule, 2 + POISONED.fetch_add(1, Ordering::Relaxed)),
        _ => here(rule, preset, 0, Part::Library),
    }
}

fn here(rule: &Rule, preset: Preset, group: usize, part: Part) -> Result<(), Failed> {
    let ground = Ground::running(preset, group, part)?;
    (rule.show)(&ground);
    ground.ends(rule.leaves);
    Ok(())
}

/// In a process of its own, which takes what it lost along.
fn apart(rule: &Rule, group: usize) -> Result<(), Failed> {
    let arguments = ["--alone", rule.name, "--group", &group.to_string()];
    let output = Command::new("/proc/self/exe").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    Err(format!("{}: {said}", output.status).into())
}

/// One rule in this process, on the running kernel.
pub(crate) fn alone(name: &str, group: usize, part: Part) -> ExitCode {
    let Some(rule) = RULES.iter().find(|rule| rule.name == name) else {
        eprintln!("contract: no rule {name}");
        return ExitCode::FAILURE;
    };
    let shown = machine::preset(&Vfio::new()).and_then(|preset| {
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
