//! Runs the project's programs in a cell and on the model that is like it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::cell::Cell;
use crate::compare::{self, Checks};
use crate::drivers::{DEVICES, Drivers, RECOVERY};
use crate::guests::{self, Guests};
use crate::kernel::Kernel;
use crate::label::Label;
use crate::spent::Spent;

/// Results of a cell.
#[derive(Debug, Default, Deserialize, Serialize)]
pub struct Shown {
    /// Commit of the repository.
    pub commit: String,
    /// The kernel that ran.
    pub kernel: String,
    /// Its page size in KiB, and its MMU.
    pub page_kib: u64,
    /// `Radix` or `Hash`.
    pub mmu: String,
    /// Everything that was checked.
    pub checks: Checks,
    /// Rules of the kernel's contract that were shown on the kernel.
    pub rules: usize,
    /// The random walk.
    pub walk: Walk,
    /// Sum of the running times of its machines.
    pub took: Duration,
    /// Running time of each machine, by name.
    #[serde(default)]
    pub spent: Vec<(String, Spent)>,
}

impl Shown {
    /// Returns how many checks passed.
    pub fn passed(&self) -> usize {
        self.checks.iter().filter(|(_, result)| result.is_ok()).count()
    }
}

/// The result of the random walk.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Walk {
    /// Operations compared.
    pub operations: u64,
    /// Operations whose results differ.
    pub differences: u64,
    /// Transfers of a device among these.
    pub transfers: u64,
    /// Duration.
    pub seconds: f64,
    /// Start of the walk.
    pub seed: u64,
    /// Commit of the repository.
    #[serde(default)]
    pub commit: String,
}

/// What to run in a cell.
#[derive(Debug)]
pub struct Run {
    /// The native command, for the models; runs of a single part do not need it.
    pub command: Option<PathBuf>,
    /// The scenarios.
    pub scenarios: Vec<String>,
    /// Random operations to compare.
    pub operations: u64,
    /// Where the walk starts.
    pub seed: u64,
    /// Rounds of drivers in user space.
    pub rounds: u32,
    /// Label of the guests' kernel, if it differs from the host's.
    pub guest_kernel: Option<Label>,
    /// The only part to run.
    pub only: Option<Only>,
}

/// A part of the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Only {
    /// The random walk.
    Walk,
    /// Drivers in user space.
    Drivers,
    /// Linux guests.
    Guests,
}

/// Tolerance of memory after everything except the walk.
const LEAK_KIB: u64 = 1024;
/// pseries kernels lose some bytes of each window for good, and a walk creates thousands.
const OPERATIONS_A_KIB: u64 = 50;
/// Memory that rules with scars may lose.
const LOST_KIB: &str = "1000000";

/// Slowest walk to wait for, in operations per second.
const SLOWEST: u64 = 50;

/// A machine of a cell. Each boots by itself, so they can run at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The scenarios, the kernel tests, the rules that leave a machine unchanged, and the walk.
    Real,
    /// The random walk alone.
    Walk,
    /// Rules of the contract that leave scars.
    Scars,
    /// A rule that crashes the machine.
    Fatal(&'static str),
    /// Drivers in user space.
    Drivers,
    /// Linux guests.
    Guests,
}

impl Part {
    /// Returns the machines of a cell, the longest first.
    pub fn of(cell: &Cell, only: Option<Only>) -> Vec<Part> {
        match only {
            Some(Only::Walk) => vec![Part::Walk],
            Some(Only::Drivers) => vec![Part::Drivers],
            Some(Only::Guests) => vec![Part::Guests],
            None => {
                let fatal = cell.fatal_rules().iter().map(|rule| Part::Fatal(rule));
                [Part::Real, Part::Drivers, Part::Scars].into_iter().chain(fatal).collect()
            }
        }
    }

    /// Returns its name for files.
    pub fn name(&self) -> &'static str {
        match self {
            Part::Real => "real",
            Part::Walk => "walk",
            Part::Scars => "scars",
            Part::Fatal(rule) => rule,
            Part::Drivers => "drivers",
            Part::Guests => "guests",
        }
    }
}

/// Runs a machine of a cell. `progress` gets lines that show how far it is.
pub fn show(
    cell: &Cell,
    part: Part,
    repository: &Path,
    run: &Run,
    logs: &Path,
    progress: &dyn Fn(&str),
) -> Result<Shown> {
    let kernel = Kernel::of_label(cell.kernel().parse()?, &repository.join("ppc64/cache"))?;
    // The kernel that a label stands for changes, and with it the model that is like it.
    let lab = Lab { cell, preset: cell.preset(&kernel.version()?), repository, logs, progress };
    let mut shown = Shown { commit: commit(repository)?, kernel: kernel.name, ..Shown::default() };
    match part {
        Part::Real | Part::Walk => lab.real(run, part, &mut shown)?,
        Part::Scars => lab.scars(&mut shown)?,
        Part::Fatal(rule) => lab.fatal(rule, &mut shown)?,
        Part::Drivers => lab.drivers(run.rounds, &mut shown)?,
        Part::Guests => lab.guests(run, &mut shown)?,
    }
    Ok(shown)
}

/// Returns the results of a cell from those of its machines, in the order of [`Part::of`]. They are
/// stored for [`last`].
pub fn join(cell: &Cell, parts: Vec<(Part, Result<Shown>)>, only: Option<Only>, logs: &Path) -> Result<Shown> {
    let mut whole = Shown::default();
    let mut ran = true;
    for (part, shown) in parts {
        let shown = shown.unwrap_or_else(|error| {
            ran = false;
            Shown { checks: vec![(part.name().into(), Err(format!("{error:#}")))], ..Shown::default() }
        });
        if whole.kernel.is_empty() {
            (whole.commit, whole.kernel) = (shown.commit, shown.kernel);
        }
        if matches!(part, Part::Real | Part::Walk) {
            (whole.page_kib, whole.mmu, whole.walk) = (shown.page_kib, shown.mmu, shown.walk);
        }
        whole.checks.extend(shown.checks);
        whole.rules += shown.rules;
        whole.took += shown.took;
        whole.spent.extend(shown.spent);
    }
    if ran && !matches!(only, Some(Only::Drivers | Only::Guests)) {
        fs::write(kept(cell, logs, only == Some(Only::Walk)), serde_json::to_vec(&whole)?)?;
    }
    Ok(whole)
}

/// Returns the latest stored results of a cell, with its latest longer walk.
pub fn last(cell: &Cell, logs: &Path) -> Option<Shown> {
    let read = |only_walk| serde_json::from_slice::<Shown>(&fs::read(kept(cell, logs, only_walk)).ok()?).ok();
    match (read(false), read(true)) {
        (Some(shown), Some(long)) if long.walk.operations > shown.walk.operations => {
            Some(Shown { walk: long.walk, ..shown })
        }
        (shown, long) => shown.or(long),
    }
}

fn kept(cell: &Cell, logs: &Path, only_walk: bool) -> PathBuf {
    logs.join(format!("{}{}.json", cell.file_name(), if only_walk { ".walk" } else { "" }))
}

/// Returns the commit of the repository.
fn commit(repository: &Path) -> Result<String> {
    let git = ["describe", "--always", "--dirty", "--abbrev=10", "--exclude=*"];
    let output = Command::new("git").args(git).current_dir(repository).output().context("start git")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A cell, where to run it, and where to store its output.
struct Lab<'a> {
    cell: &'a Cell,
    /// The model that is like it.
    preset: String,
    repository: &'a Path,
    logs: &'a Path,
    progress: &'a dyn Fn(&str),
}

/// Output of `ppc64/run`, and whether all went well.
struct Done {
    well: Result<(), String>,
    output: String,
    errors: String,
}

impl Lab<'_> {
    /// Runs everything that leaves the machine unchanged.
    fn real(&self, run: &Run, part: Part, shown: &mut Shown) -> Result<()> {
        let only_walk = part == Part::Walk;
        let mut words: Vec<String> = Vec::new();
        let mut then = |line: &[&str]| {
            if !words.is_empty() {
                words.push("--then".into());
            }
            words.extend(line.iter().map(ToString::to_string));
        };
        let windows = self.cell.has_windows() && !only_walk;
        if windows {
            let names: Vec<&str> = run.scenarios.iter().map(String::as_str).collect();
            then(&[&["spapr-iommu", "run", "--json", "--host", "vfio", "--raw"], &names[..]].concat());
            then(&["kernel", "--format", "terse", "--skip", RECOVERY]);
        }
        let preset = &self.preset;
        if !only_walk {
            then(&["contract", "--preset", preset]);
        }
        let (seed, operations) = (run.seed.to_string(), run.operations.to_string());
        then(&["conformance", "--json", "--preset", preset, "--seed", &seed, "--ops", &operations]);
        // The walk comes last: a machine on which rules fail should not be walked on for an hour.
        let timeout = 600 + run.operations / SLOWEST;
        let tolerance = LEAK_KIB + run.operations / OPERATIONS_A_KIB;
        let options = ["--timeout", &timeout.to_string(), "--leak-tolerance", &tolerance.to_string()];
        let real = self.run(part, &options, &words, shown)?;

        shown.checks.push(("no oops, no WARN, no memory lost, all commands ended well".into(), real.well));
        if windows {
            let model = Command::new(run.command.as_ref().context("the native command is not built")?)
                .args(["run", "--json", "--host", &format!("model:{preset}")])
                .args(&run.scenarios)
                .current_dir(self.repository)
                .stdin(Stdio::null())
                .output()
                .context("run the scenarios on the model")?;
            let model = String::from_utf8_lossy(&model.stdout).into_owned();
            fs::write(self.logs.join(format!("{}.model.out", self.cell.file_name())), &model)?;
            let (model, real) = (compare::documents(&model), compare::documents(&real.output));
            shown.checks.extend(compare::scenarios(&run.scenarios, &model, &real));
        }
        let mut programs = compare::programs(&real.output).into_iter();
        if windows {
            shown.checks.extend(compare::tests("kernel test", programs.next()));
        }
        if !only_walk {
            shown.checks.extend(compare::tests("rule", programs.next()));
        }
        shown.rules = compare::rules(&real.output);
        let answer = match walk(&real.output) {
            None => Err("the walk did not come to an end".into()),
            Some(walk) => {
                let good = walk.differences == 0 && walk.operations >= run.operations;
                shown.walk = Walk { commit: shown.commit.clone(), ..walk };
                if good { Ok(()) } else { Err("it does not: see the logs".into()) }
            }
        };
        shown.checks.push(("the model answers random operations as the kernel does".into(), answer));
        facts(&real.errors, shown);
        Ok(())
    }

    /// Runs rules of the contract that leave scars, in a machine of their own.
    fn scars(&self, shown: &mut Shown) -> Result<()> {
        let mut options = vec!["--allow-warnings", "--leak-tolerance", LOST_KIB];
        if self.cell.is_pseries() {
            // A rule that poisons a group has one of its own.
            options.extend(["--device", "edu"].repeat(4));
        }
        let words = ["contract", "--preset", &self.preset, "--scars"].map(str::to_owned);
        let done = self.run(Part::Scars, &options, &words, shown)?;
        let printed = compare::programs(&done.output).first().copied();
        shown.checks.extend(compare::tests("rule that leaves scars", printed));
        shown.checks.push(("the machine lives with its scars".into(), done.well));
        shown.rules += compare::rules(&done.output);
        Ok(())
    }

    /// Runs a rule that crashes the machine: the crash is expected.
    fn fatal(&self, rule: &'static str, shown: &mut Shown) -> Result<()> {
        let words = ["contract", "--preset", &self.preset, "--fatal", rule].map(str::to_owned);
        let done = self.run(Part::Fatal(rule), &["--expect-oops", "--timeout", "200"], &words, shown)?;
        shown.rules += usize::from(done.well.is_ok());
        shown.checks.push((format!("{rule}: the machine ends"), done.well));
        Ok(())
    }

    /// Runs drivers in user space, in a machine with devices for them.
    fn drivers(&self, rounds: u32, shown: &mut Shown) -> Result<()> {
        let timeout = Drivers::timeout(rounds).to_string();
        let options = [&DEVICES[..], &["--timeout", &timeout]].concat();
        let done = self.run(Part::Drivers, &options, &Drivers::words(self.cell, rounds), shown)?;
        let mut programs = compare::programs(&done.output).into_iter();
        let mut checks = Checks::new();
        if self.cell.has_windows() {
            checks.extend(compare::tests("recovery", programs.next()));
        }
        checks.extend(compare::tests("driver test", programs.next()));
        checks.extend(Drivers::lines(self.cell, &done.output));
        checks.extend(Drivers::monitor(self.cell, &done.output));
        checks.push(("the machine lost nothing to drivers".into(), done.well));
        let (kernel, commit) = (self.cell.kernel().to_owned(), shown.commit.clone());
        shown.checks = checks.clone();
        let drivers = Drivers { kernel, checks, rounds, took: shown.took, commit };
        drivers.keep(self.cell, self.logs)
    }

    /// Runs Linux guests, one after the other, with the machine's kernel or another.
    fn guests(&self, run: &Run, shown: &mut Shown) -> Result<()> {
        let label = run.guest_kernel.map(|label| label.to_string());
        let cache = self.repository.join("ppc64/cache");
        let guest =
            run.guest_kernel.map(|label| Kernel::of_label(label, &cache)).transpose()?.map(|kernel| kernel.name);
        let mut options = guests::OPTIONS.to_vec();
        options.extend(label.iter().flat_map(|label| ["--guest-kernel", label.as_str()]));
        let done = self.run(Part::Guests, &options, &Guests::words(label.is_some()), shown)?;
        let mut checks = Guests::checks(&done.output, label.is_some());
        checks.push(("the machine lost nothing to guests".into(), done.well));
        shown.checks = checks.clone();
        let (kernel, commit) = (shown.kernel.clone(), shown.commit.clone());
        Guests { kernel, guest, checks, took: shown.took, commit }.keep(self.cell, label.as_deref(), self.logs)
    }

    /// Runs commands in the machine.
    fn run(&self, part: Part, options: &[&str], words: &[String], shown: &mut Shown) -> Result<Done> {
        let file = |end: &str| self.logs.join(format!("{}.{}.{end}", self.cell.file_name(), part.name()));
        let mut child = Command::new(self.repository.join("ppc64/run"))
            .args(self.cell.options())
            .args(options)
            .arg("--log")
            .arg(file("console"))
            .arg("--")
            .args(words)
            .current_dir(self.repository)
            .stdin(Stdio::null())
            .stdout(File::create(file("out"))?)
            .stderr(Stdio::piped())
            .spawn()
            .context("start ppc64/run")?;
        let mut errors = String::new();
        for line in child.stderr.take().map(BufReader::new).into_iter().flat_map(BufRead::lines) {
            let line = line.context("read the errors of ppc64/run")?;
            (self.progress)(&line);
            errors += &line;
            errors += "\n";
        }
        let status = child.wait()?;
        fs::write(file("err"), &errors)?;
        if let Some(spent) = Spent::among(&errors) {
            // Without the time to build programs, which may take longer.
            shown.took += Duration::try_from_secs_f64(spent.machine).unwrap_or_default();
            shown.spent.push((part.name().to_owned(), spent));
        }
        let output = String::from_utf8_lossy(&fs::read(file("out"))?).into_owned();
        let last: Vec<&str> = errors.lines().rev().take(12).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        let well = if status.success() { Ok(()) } else { Err(format!("{status}\n{}", last.join("\n"))) };
        Ok(Done { well, output, errors })
    }
}

/// Returns the last line of the conformance test.
fn walk(output: &str) -> Option<Walk> {
    output.lines().filter_map(|line| serde_json::from_str::<Walk>(line).ok()).next_back()
}

/// Returns page size and MMU, as `ppc64/run` prints them.
fn facts(errors: &str, shown: &mut Shown) {
    let line = errors.lines().find_map(|line| line.strip_prefix("Linux ")).unwrap_or_default();
    for fact in line.split(", ") {
        match fact.split_once(' ') {
            Some((kib, "KiB pages")) => shown.page_kib = kib.parse().unwrap_or(0),
            Some((mmu, "MMU")) => shown.mmu = mmu.into(),
            _ => {}
        }
    }
}

/// Returns the native command that runs the models.
pub fn native_command(repository: &Path) -> Result<PathBuf> {
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--bin", "spapr-iommu"])
        .current_dir(repository)
        .status()
        .context("start cargo")?;
    ensure!(status.success(), "cargo could not build spapr-iommu");
    let metadata =
        cargo_metadata::MetadataCommand::new().manifest_path(repository.join("Cargo.toml")).no_deps().exec()?;
    Ok(metadata.target_directory.join("release/spapr-iommu").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_read_from_the_lines_of_a_run() {
        let mut shown = Shown::default();
        facts("kernel: 6.12.1-x\nLinux 6.12.1-x, 64 KiB pages, 1984 MiB memory, Radix MMU\n", &mut shown);
        assert_eq!((shown.page_kib, shown.mmu.as_str()), (64, "Radix"));
    }

    #[test]
    fn a_cell_is_what_its_machines_showed_and_one_that_did_not_run_failed() {
        let logs = tempfile::tempdir().unwrap();
        let cell: Cell = "powernv8:6.12-64k".parse().unwrap();
        assert_eq!(Part::of(&cell, None).len(), 3 + 3);
        assert_eq!(Part::of(&cell, Some(Only::Walk)), [Part::Walk]);
        let part = |checks: usize, rules| {
            let checks = vec![("x".to_owned(), Ok(())); checks];
            let spent = vec![("x".to_owned(), Spent::default())];
            let took = Duration::from_secs(5);
            Ok(Shown {
                kernel: "k".into(),
                commit: "c".into(),
                page_kib: 64,
                checks,
                rules,
                took,
                spent,
                ..Shown::default()
            })
        };
        let join = |parts| super::join(&cell, parts, None, logs.path()).unwrap();
        let whole = join(vec![(Part::Real, part(3, 2)), (Part::Drivers, part(4, 0)), (Part::Scars, part(1, 1))]);
        assert_eq!((whole.checks.len(), whole.passed(), whole.rules), (8, 8, 3));
        assert_eq!((whole.kernel.as_str(), whole.commit.as_str(), whole.page_kib), ("k", "c", 64));
        assert_eq!((whole.took, whole.spent.len()), (Duration::from_secs(15), 3));
        assert_eq!(last(&cell, logs.path()).unwrap().checks.len(), 8);
        let failed = join(vec![(Part::Real, part(3, 2)), (Part::Scars, Err(anyhow::anyhow!("no boot")))]);
        assert_eq!((failed.checks.len(), failed.passed()), (4, 3));
        assert_eq!(last(&cell, logs.path()).unwrap().checks.len(), 8, "what did not run is not kept");
    }

    #[test]
    fn the_last_summary_counts() {
        let line = r#"{"operations":12,"differences":0,"transfers":1,"seconds":0.5,"seed":3,"what":"x"}"#;
        let walk = walk(&format!("  x: 1 with 0\n{line}\n")).unwrap();
        assert_eq!((walk.operations, walk.transfers), (12, 1));
        assert!(super::walk("12 operations").is_none());
    }
}
