//! Builds the programs that run inside the machine.

use std::collections::BTreeSet;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::{Artifact, Message, MetadataCommand, Package, TargetKind};

use crate::packaged::Packaged;

const TARGET: &str = "powerpc64le-unknown-linux-gnu";
const LINKER: &str = "powerpc64le-linux-gnu-gcc";

/// Metadata of the project's package: which packages of the workspace a command needs.
const METADATA: &str = "ppc64";

/// Metadata: which commands boot Linux, and the package with the first process of each.
const METADATA_LINUX: &str = "ppc64-linux";

/// Metadata: which other commands a command runs.
const METADATA_COMMANDS: &str = "ppc64-commands";

/// Metadata: which Debian program a command runs.
const METADATA_DEBIAN: &str = "ppc64-debian";

/// Metadata: which Debian program the Linux runs that a command boots with an option.
const METADATA_DEBIAN_GUEST: &str = "ppc64-debian-guest";

/// Metadata of a package: its programs in C, and the source of each. They are linked with its
/// library, and find its headers in `include`.
const METADATA_C: &str = "ppc64-c";

/// Commands that the first process runs itself.
pub const BUILT_IN: [&str; 2] = ["report", "selftest"];

/// A program, and where it was built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its name inside the machine.
    pub name: String,
    /// The executable.
    pub file: PathBuf,
}

/// What cargo can build.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Buildable {
    package: String,
    name: String,
    kind: Kind,
    features: Vec<String>,
    /// Guests that it runs.
    guests: Vec<String>,
    /// The first process of the Linux that it boots.
    linux: Option<String>,
    /// Other commands that it runs.
    commands: Vec<String>,
    /// The Debian program that it runs.
    debian: Option<Packaged>,
    /// The Debian program of the Linux that it boots with an option.
    debian_guest: Option<(String, Packaged)>,
    /// Location of a program in C.
    source: Option<Source>,
}

/// The source of a program in C.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Source {
    file: PathBuf,
    /// Location of its headers.
    include: PathBuf,
}

/// What commands need inside the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programs {
    /// The commands, and the bare-metal guests they run.
    pub commands: Vec<Program>,
    /// The first process of the Linux that a command boots as a guest.
    pub linux_init: Option<Program>,
    /// The Debian program that a command runs.
    pub debian: Option<Packaged>,
    /// The Debian program of the Linux that a command boots as a guest.
    pub debian_guest: Option<Packaged>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    Bin,
    /// A command for bare metal.
    Guest,
    Example,
    Test,
    Bench,
    /// A program in C; cargo builds the library with which it is linked.
    C,
}

impl Buildable {
    fn arguments(&self) -> Vec<String> {
        let (command, option) = match self.kind {
            Kind::C => (&["rustc"][..], "--lib"),
            Kind::Bin | Kind::Guest => (&["build"][..], "--bin"),
            Kind::Example => (&["build"][..], "--example"),
            Kind::Test => (&["test", "--no-run"][..], "--test"),
            Kind::Bench => (&["bench", "--no-run"][..], "--bench"),
        };
        let mut arguments: Vec<String> = command.iter().map(ToString::to_string).collect();
        arguments.extend(match self.kind {
            // Optimised anyway; `cargo bench` does not know the option.
            Kind::Bench => None,
            Kind::Guest => Some("--profile=guest".to_owned()),
            _ => Some("--release".to_owned()),
        });
        arguments.extend(["--package", &self.package, option].map(str::to_owned));
        match self.kind {
            Kind::C => arguments.extend(["--crate-type", "staticlib"].map(str::to_owned)),
            _ => arguments.push(self.name.clone()),
        }
        if !self.features.is_empty() {
            arguments.extend(["--features".to_owned(), self.features.join(",")]);
        }
        arguments
    }
}

/// Builds the first process.
pub fn build_init(repository: &Path) -> Result<Program> {
    build(&of_package("ppc64-init", Kind::Bin), repository)
}

/// Returns the command of a package that has its name.
fn of_package(name: &str, kind: Kind) -> Buildable {
    Buildable { package: name.into(), name: name.into(), kind, ..Buildable::default() }
}

/// Builds the named commands, each once.
pub fn build_commands(commands: &[Vec<String>], repository: &Path) -> Result<Programs> {
    let names: BTreeSet<&str> = commands
        .iter()
        .filter_map(|words| words.first().map(String::as_str))
        .filter(|name| !BUILT_IN.contains(name))
        .collect();
    if names.is_empty() {
        return Ok(Programs::default());
    }
    let all = list(repository)?;
    let mut wanted = names.iter().map(|name| find(name, &all)).collect::<Result<Vec<_>>>()?;
    for name in wanted.clone().into_iter().flat_map(|buildable| &buildable.commands) {
        if !names.contains(name.as_str()) {
            wanted.push(find(name, &all)?);
        }
    }
    let debian = wanted.iter().find_map(|buildable| buildable.debian.clone());
    let given = |option: &String| commands.iter().flatten().any(|word| word == option);
    let debian_guest = wanted.iter().find_map(|buildable| buildable.debian_guest.clone());
    let debian_guest = debian_guest.filter(|(option, _)| given(option)).map(|(_, packaged)| packaged);
    let guests: BTreeSet<&String> = wanted.iter().flat_map(|buildable| &buildable.guests).collect();
    let guests: Vec<Buildable> = guests.into_iter().map(|name| of_package(name, Kind::Guest)).collect();
    let linux = wanted.iter().find_map(|buildable| buildable.linux.as_deref());
    let linux_init = linux.map(|package| build(&of_package(package, Kind::Bin), repository)).transpose()?;
    let commands =
        wanted.into_iter().chain(&guests).map(|buildable| build(buildable, repository)).collect::<Result<_>>()?;
    Ok(Programs { commands, linux_init, debian, debian_guest })
}

fn find<'a>(name: &str, all: &'a [Buildable]) -> Result<&'a Buildable> {
    if let Some(found) = all.iter().find(|buildable| buildable.name == name) {
        return Ok(found);
    }
    let names = |kind| {
        let names: Vec<&str> = all.iter().filter(|b| b.kind == kind).map(|b| b.name.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    };
    bail!(
        "there is no command {name}\ncommands: {}\nexamples: {}\nprograms in C: {}\nintegration tests: {}\nbenchmarks: {}\n\
         built in: {}",
        names(Kind::Bin),
        names(Kind::Example),
        names(Kind::C),
        names(Kind::Test),
        names(Kind::Bench),
        BUILT_IN.join(", ")
    )
}

/// Returns commands, examples, programs in C, integration tests and benchmarks of the workspace's
/// default members: library, C interface, command and tests.
fn list(repository: &Path) -> Result<Vec<Buildable>> {
    let metadata = MetadataCommand::new()
        .manifest_path(repository.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("ask cargo for the project's targets")?;
    let kind = |kinds: &[TargetKind]| {
        kinds.iter().find_map(|kind| match kind {
            TargetKind::Bin => Some(Kind::Bin),
            TargetKind::Example => Some(Kind::Example),
            TargetKind::Test => Some(Kind::Test),
            TargetKind::Bench => Some(Kind::Bench),
            _ => None,
        })
    };
    let packages = metadata.workspace_default_packages();
    ensure!(!packages.is_empty(), "the repository has no default members");
    let targets = packages.iter().flat_map(|package| package.targets.iter().map(move |target| (package, target)));
    let buildables = targets.filter_map(|(package, target)| {
        let entry = |table| package.metadata.get(table).and_then(|of| of.get(&target.name));
        Some(Buildable {
            package: package.name.to_string(),
            name: target.name.clone(),
            kind: kind(&target.kind)?,
            features: target.required_features.clone(),
            guests: names(&package.metadata, METADATA, &target.name),
            linux: linux(&package.metadata, &target.name),
            commands: names(&package.metadata, METADATA_COMMANDS, &target.name),
            debian: entry(METADATA_DEBIAN).and_then(packaged),
            debian_guest: entry(METADATA_DEBIAN_GUEST).and_then(with_option),
            source: None,
        })
    });
    Ok(buildables.chain(packages.iter().flat_map(|package| in_c(package))).collect())
}

/// Returns the programs in C of a package.
fn in_c(package: &Package) -> Vec<Buildable> {
    let programs = package.metadata.get(METADATA_C).and_then(serde_json::Value::as_object);
    let folder = package.manifest_path.parent().map(|folder| folder.as_std_path().to_owned()).unwrap_or_default();
    let program = |(name, source): (&String, &serde_json::Value)| {
        let source = Source { file: folder.join(source.as_str()?), include: folder.join("include") };
        let (package, kind) = (package.name.to_string(), Kind::C);
        Some(Buildable { package, name: name.clone(), kind, source: Some(source), ..Buildable::default() })
    };
    programs.into_iter().flatten().filter_map(program).collect()
}

/// Returns the names that a table of the metadata lists for a command.
fn names(metadata: &serde_json::Value, table: &str, command: &str) -> Vec<String> {
    strings(metadata.get(table).and_then(|commands| commands.get(command)))
}

fn strings(list: Option<&serde_json::Value>) -> Vec<String> {
    let list = list.and_then(serde_json::Value::as_array);
    list.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// A package, and its files that are needed.
fn packaged(entry: &serde_json::Value) -> Option<Packaged> {
    let package = entry.get("package")?.as_str()?.to_owned();
    Some(Packaged { package, files: strings(entry.get("files")) })
}

/// An option, and what it needs.
fn with_option(entry: &serde_json::Value) -> Option<(String, Packaged)> {
    Some((entry.get("option")?.as_str()?.to_owned(), packaged(entry)?))
}

/// Returns the package with the first process of the Linux that a command boots.
fn linux(metadata: &serde_json::Value, command: &str) -> Option<String> {
    Some(metadata.get(METADATA_LINUX)?.get(command)?.as_str()?.to_owned())
}

fn build(buildable: &Buildable, repository: &Path) -> Result<Program> {
    let name = buildable.name.clone();
    let Some(source) = &buildable.source else {
        let executable = |artifact: Artifact| {
            artifact.executable.filter(|_| artifact.target.name == buildable.name).map(PathBuf::from)
        };
        return Ok(Program { name, file: cargo(buildable, repository, executable)? });
    };
    let library = cargo(buildable, repository, |artifact| {
        artifact.filenames.into_iter().map(PathBuf::from).find(|file| file.extension().is_some_and(|end| end == "a"))
    })?;
    let file = library.with_file_name(&buildable.name);
    let mut compiler = Command::new(LINKER);
    compiler.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2", "-static"]);
    compiler.arg("-I").arg(&source.include).arg("-o").arg(&file).arg(&source.file).arg(&library);
    // The linker warns of what statically linked programs cannot do, such as looking up users;
    // these do not.
    let done = compiler.args(["-lpthread", "-lm", "-ldl"]).output().context("start the C compiler")?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "could not compile {} for {TARGET}:\n{said}", source.file.display());
    Ok(Program { name, file })
}

/// Makes cargo build something, and returns the built file that `pick` finds.
fn cargo(buildable: &Buildable, repository: &Path, pick: impl Fn(Artifact) -> Option<PathBuf>) -> Result<PathBuf> {
    let variable = TARGET.to_uppercase().replace('-', "_");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // There is no C library inside the machine. A guest must lie where it was linked.
    let flags = match buildable.kind {
        Kind::Guest => "-Ctarget-feature=+crt-static -Crelocation-model=static",
        _ => "-Ctarget-feature=+crt-static",
    };
    let mut child = Command::new(cargo)
        .args(buildable.arguments())
        .args(["--quiet", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(repository)
        .env(format!("CARGO_TARGET_{variable}_LINKER"), LINKER)
        .env(format!("CARGO_TARGET_{variable}_RUSTFLAGS"), flags)
        // Both would take precedence over the variable above.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("start cargo")?;
    let messages = child.stdout.take().context("no output of cargo")?;
    let mut file = None;
    for message in Message::parse_stream(BufReader::new(messages)) {
        if let Message::CompilerArtifact(artifact) = message.context("read cargo's messages")? {
            file = pick(artifact).or(file);
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "could not build {} for {TARGET}; ci/install installs what that needs", buildable.name);
    file.with_context(|| format!("cargo built no {}", buildable.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buildable(name: &str, kind: Kind) -> Buildable {
        Buildable { features: vec!["cli".into()], package: "spapr-iommu".into(), ..of_package(name, kind) }
    }

    #[test]
    fn an_unknown_command_is_answered_with_the_known_ones() {
        let all = [buildable("spapr-iommu", Kind::Bin), buildable("windows", Kind::Test)];
        assert_eq!(find("windows", &all).unwrap(), &all[1]);
        let error = find("window", &all).unwrap_err().to_string();
        for part in [
            "commands: spapr-iommu",
            "examples: none",
            "programs in C: none",
            "integration tests: windows",
            "built in: report, selftest",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn tests_are_built_and_not_run() {
        let arguments = buildable("windows", Kind::Test).arguments().join(" ");
        assert_eq!(arguments, "test --no-run --release --package spapr-iommu --test windows --features cli");
    }

    #[test]
    fn the_project_offers_its_command() {
        let all = list(&crate::repository()).unwrap();
        assert_eq!(find("spapr-iommu", &all).unwrap().kind, Kind::Bin);
    }

    #[test]
    fn the_monitor_for_linux_takes_its_first_process_along() {
        let all = list(&crate::repository()).unwrap();
        let monitor = find("linux", &all).unwrap();
        assert_eq!((monitor.linux.as_deref(), &monitor.guests[..]), (Some("ppc64-linux-init"), &[][..]));
        let (option, program) = monitor.debian_guest.as_ref().unwrap();
        assert_eq!((&option[..], &program.files[..]), ("--restart", &["usr/sbin/kexec".to_owned()][..]));
        let vmm = find("vmm", &all).unwrap();
        assert_eq!((&vmm.linux, &vmm.debian_guest), (&None, &None));
    }

    #[test]
    fn the_measurement_beside_qemu_takes_both_monitors_along() {
        let all = list(&crate::repository()).unwrap();
        let beside = find("beside-qemu", &all).unwrap();
        assert_eq!((beside.linux.as_deref(), &beside.commands[..]), (Some("ppc64-linux-init"), &["linux".into()][..]));
        let qemu = beside.debian.as_ref().unwrap();
        assert_eq!(qemu.package, "qemu-system-ppc");
        assert!(qemu.files.contains(&"usr/bin/qemu-system-ppc64".into()));
    }

    #[test]
    fn a_program_in_c_is_linked_with_the_library_of_its_package() {
        let all = list(&crate::repository()).unwrap();
        let monitor = find("monitor", &all).unwrap();
        let source = monitor.source.as_ref().unwrap();
        assert!(source.file.is_file() && source.include.join("spapr_iommu.h").is_file(), "{source:?}");
        let arguments = monitor.arguments().join(" ");
        assert_eq!(arguments, "rustc --release --package spapr-iommu-c --lib --crate-type staticlib");
    }

    #[test]
    fn the_example_monitor_takes_its_guest_along() {
        let all = list(&crate::repository()).unwrap();
        assert_eq!(find("vmm", &all).unwrap().guests, ["ppc64-guest"]);
        let arguments = of_package("ppc64-guest", Kind::Guest).arguments().join(" ");
        assert_eq!(arguments, "build --profile=guest --package ppc64-guest --bin ppc64-guest");
    }
}
