//! A cell: a machine with a kernel, and what the project's programs show in it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// A machine and a kernel, by their names on the command line of `ppc64/run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    machine: String,
    kernel: String,
}

/// What every change is checked on.
pub const DEFAULT: [&str; 8] = [
    "powernv8:6.12-64k",
    "powernv9:6.12",
    "powernv9:6.12-64k",
    "powernv10:6.12-64k",
    "pseries:6.12",
    "pseries:6.12-64k",
    "pseries:7.2-64k",
    "powernv9:7.2-64k",
];

impl std::str::FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((machine, kernel)) if !machine.is_empty() && !kernel.is_empty() => {
                Ok(Self { machine: machine.into(), kernel: kernel.into() })
            }
            _ => Err(format!("expected MACHINE:KERNEL, such as {}", DEFAULT[0])),
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{} {}", self.machine, self.kernel))
    }
}

impl Cell {
    /// The model that should behave like this cell.
    pub fn preset(&self) -> String {
        match self.kernel.strip_suffix("-64k") {
            Some(series) => format!("{}-64k-{series}", self.machine),
            None => format!("{}-4k-{}", self.machine, self.kernel),
        }
    }
}

/// What a cell showed.
#[derive(Debug, Default)]
pub struct Shown {
    /// The kernel that ran.
    pub kernel: String,
    /// Names of checks and, where one failed, why.
    pub checks: Vec<(String, Result<(), String>)>,
    /// How long it took.
    pub took: Duration,
}

/// What to run in a cell.
#[derive(Debug)]
pub struct Run {
    /// The native command, for the models.
    pub command: PathBuf,
    /// The scenarios.
    pub scenarios: Vec<String>,
    /// Random operations to compare.
    pub operations: u64,
}

/// Runs scenarios and kernel tests in a cell, and the scenarios on the model that is like it.
pub fn show(cell: &Cell, repository: &Path, run: &Run, logs: &Path) -> Result<Shown> {
    let Run { command, scenarios, operations } = run;
    let began = Instant::now();
    let name = format!("{}-{}", cell.machine, cell.kernel);
    let host = format!("model:{}", cell.preset());
    let model = Command::new(command)
        .args(["run", "--json", "--host", &host])
        .args(scenarios)
        .current_dir(repository)
        .stdin(Stdio::null())
        .output()
        .context("run the scenarios on the model")?;
    let real = Command::new(repository.join("ppc64/run"))
        .args(["--machine", &cell.machine, "--kernel", &cell.kernel, "--timeout", "600"])
        .arg("--log")
        .arg(logs.join(format!("{name}.console")))
        .args(["--", "spapr-iommu", "run", "--json", "--host", "vfio", "--bare"])
        .args(scenarios)
        .args(["--then", "kernel", "--format", "terse"])
        .args(["--then", "conformance", "--seed", "1", "--ops", &operations.to_string()])
        .current_dir(repository)
        .stdin(Stdio::null())
        .output()
        .context("start ppc64/run")?;
    for (what, output) in [("model", &model), ("real", &real)] {
        std::fs::write(logs.join(format!("{name}.{what}.out")), &output.stdout)?;
        std::fs::write(logs.join(format!("{name}.{what}.err")), &output.stderr)?;
    }
    let mut checks = compare(scenarios, &documents(&model), &documents(&real));
    checks.push(("no oops, no WARN, no memory lost, all commands ended well".into(), ended_well(&real)));
    checks.extend(kernel_tests(&real));
    checks.push(("the model answers random operations as the kernel does".into(), conformance(&real)));
    let kernel = text(&real.stderr).lines().find_map(|line| line.strip_prefix("kernel: ").map(str::to_owned));
    Ok(Shown { kernel: kernel.unwrap_or_else(|| "none".into()), checks, took: began.elapsed() })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ended_well(output: &Output) -> Result<(), String> {
    let error = || {
        text(&output.stderr).lines().rev().take(12).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
    };
    if output.status.success() { Ok(()) } else { Err(format!("{}\n{}", output.status, error())) }
}

/// The JSON documents of a run, a line each, by title, without what names the host.
fn documents(output: &Output) -> BTreeMap<String, Value> {
    let documents =
        text(&output.stdout).lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>();
    documents
        .into_iter()
        .filter_map(|mut document| {
            document.as_object_mut()?.remove("host");
            Some((document.get("title")?.as_str()?.to_owned(), document))
        })
        .collect()
}

/// A check for each scenario: it ran as expected on the real kernel, and the model says the same, byte for byte.
fn compare(
    scenarios: &[String],
    model: &BTreeMap<String, Value>,
    real: &BTreeMap<String, Value>,
) -> Vec<(String, Result<(), String>)> {
    let mut checks: Vec<_> = model
        .iter()
        .map(|(title, ours)| {
            let result = match real.get(title) {
                None => Err("it did not run on the real kernel".to_owned()),
                Some(theirs) => difference(ours, theirs, "").map_or(Ok(()), Err),
            };
            (format!("scenario: {title}"), result)
        })
        .collect();
    if model.len() != scenarios.len() {
        let error = format!("{} scenarios, {} documents of the model", scenarios.len(), model.len());
        checks.push(("every scenario ran on the model".into(), Err(error)));
    }
    checks
}

/// Where two documents first differ, and how.
fn difference(model: &Value, real: &Value, path: &str) -> Option<String> {
    match (model, real) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let names = ours.keys().chain(theirs.keys());
            let null = Value::Null;
            let of = |object: &serde_json::Map<String, Value>, name: &String| object.get(name).unwrap_or(&null).clone();
            names.into_iter().find_map(|name| difference(&of(ours, name), &of(theirs, name), &format!("{path}/{name}")))
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            ours.iter().zip(theirs).enumerate().find_map(|(i, (a, b))| difference(a, b, &format!("{path}/{i}")))
        }
        _ => (model != real).then(|| format!("{path}: the model has {model}, the real kernel {real}")),
    }
}

/// The results of the kernel tests: a character each, `.` for one that passed.
fn kernel_tests(output: &Output) -> Vec<(String, Result<(), String>)> {
    let text = text(&output.stdout);
    let Some(line) = text.lines().find(|line| line.starts_with("test result:")) else {
        return vec![("kernel tests".into(), Err("they did not run".into()))];
    };
    let count = |word: &str| -> usize {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|there| there.trim_end_matches(';') == word);
        at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
    };
    let passed = (0..count("passed")).map(|i| (format!("kernel test {i}"), Ok(())));
    passed.chain((0..count("failed")).map(|i| (format!("kernel test, failed {i}"), Err(text.clone())))).collect()
}

/// The last word of the conformance test.
fn conformance(output: &Output) -> Result<(), String> {
    let text = text(&output.stdout);
    match text.lines().find(|line| line.contains(" operations in ")) {
        Some(line) if line.contains(" 0 differences,") => Ok(()),
        Some(line) => Err(line.to_owned()),
        None => Err("it did not come to an end".into()),
    }
}

/// The native command that runs the models.
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
    use serde_json::json;

    #[test]
    fn a_cell_names_the_model_that_is_like_it() {
        let preset = |text: &str| text.parse::<Cell>().unwrap().preset();
        assert_eq!(preset("powernv9:6.12"), "powernv9-4k-6.12");
        assert_eq!(preset("pseries:7.2-64k"), "pseries-64k-7.2");
        assert!("powernv9".parse::<Cell>().is_err());
    }

    #[test]
    fn a_difference_is_found_and_named() {
        let ours = json!({"steps": [{"outcome": "ok"}], "a": 1});
        assert_eq!(difference(&ours, &ours.clone(), ""), None);
        let theirs = json!({"steps": [{"outcome": "overlap"}], "a": 1});
        let text = difference(&ours, &theirs, "").unwrap();
        assert_eq!(text, "/steps/0/outcome: the model has \"ok\", the real kernel \"overlap\"");
        assert!(difference(&ours, &json!({"steps": [], "a": 1}), "").is_some());
        assert!(difference(&ours, &json!({"steps": [{"outcome": "ok"}], "a": 1, "b": 2}), "").is_some());
    }

    #[test]
    fn a_scenario_that_did_not_run_is_a_failure() {
        let model = BTreeMap::from([("first".to_owned(), json!({}))]);
        let checks = compare(&["a.toml".into()], &model, &BTreeMap::new());
        assert!(checks[0].1.is_err());
        assert!(compare(&["a.toml".into()], &BTreeMap::new(), &BTreeMap::new())[0].1.is_err());
    }
}
