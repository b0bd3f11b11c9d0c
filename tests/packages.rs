//! What users of the packages get: few dependencies under known licences, and no tests.

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand, Package, PackageId};
use spdx::{Expression, ParseMode};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

/// The packages that are published.
const PUBLISHED: [&str; 3] = ["spapr-iommu", "spapr-iommu-c", "spapr-iommu-cli"];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    let options = ["--locked", "--filter-platform", "powerpc64le-unknown-linux-gnu"].map(String::from);
    command.current_dir(root()).features(CargoOpt::AllFeatures).other_options(options).exec().unwrap()
}

fn published(metadata: &Metadata) -> [&Package; 3] {
    PUBLISHED.map(|name| *metadata.workspace_packages().iter().find(|package| *package.name == name).unwrap())
}

/// Returns what users compile with the published packages, with all features.
fn compiled(metadata: &Metadata) -> BTreeSet<&PackageId> {
    let nodes = &metadata.resolve.as_ref().unwrap().nodes;
    let edges: BTreeMap<_, _> = nodes.iter().map(|node| (&node.id, &node.deps)).collect();
    let mut found = BTreeSet::new();
    let mut open: Vec<_> = published(metadata).map(|package| &package.id).into();
    while let Some(id) = open.pop() {
        if found.insert(id) {
            let used = edges[id].iter().filter(|edge| {
                edge.dep_kinds.iter().any(|kind| matches!(kind.kind, DependencyKind::Normal | DependencyKind::Build))
            });
            open.extend(used.map(|edge| &edge.pkg));
        }
    }
    found
}

/// Returns a list of strings in a table of `deny.toml`.
fn deny(table: &str, key: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let toml: toml::Table = text.parse().unwrap();
    toml[table][key].as_array().unwrap().iter().map(|value| value.as_str().unwrap().to_owned()).collect()
}

/// Returns the files that `cargo package` puts into a package.
fn files(package: &str) -> Vec<String> {
    let mut cargo = Command::new(env!("CARGO"));
    let output = cargo.current_dir(root()).args(["package", "--list", "--allow-dirty", "--package", package]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn the_library_has_at_most_eleven_dependencies() {
    let metadata = metadata();
    let [library, ..] = published(&metadata);
    let always = library.dependencies.iter().filter(|other| other.kind == DependencyKind::Normal && !other.optional);
    let names: Vec<_> = always.map(|other| &other.name).collect();
    assert!((1..=11).contains(&names.len()), "{names:?}");
}

#[test]
fn licences_and_registry_are_those_of_deny_toml() {
    let metadata = metadata();
    let (licences, registries) = (deny("licenses", "allow"), deny("sources", "allow-registry"));
    let ids = compiled(&metadata);
    assert!(ids.len() > 40, "{ids:?}");
    for id in ids {
        let package = &metadata[id];
        let text = package.license.as_ref().unwrap_or_else(|| panic!("{id} names no licence"));
        let expression = Expression::parse_mode(text, ParseMode::LAX).unwrap();
        let allowed = |requirement: &spdx::LicenseReq| licences.iter().any(|name| *name == requirement.to_string());
        assert!(expression.evaluate(allowed), "deny.toml does not allow {id}: {text}");
        let source = package.source.as_ref().map(|source| source.repr.as_str());
        let known = source.is_none_or(|source| registries.iter().any(|known| source.ends_with(&**known)));
        assert!(known, "deny.toml does not allow {source:?}, where {id} is from");
    }
}

#[test]
fn users_compile_no_crate_in_two_versions_that_deny_toml_does_not_skip() {
    let metadata = metadata();
    let mut versions = BTreeMap::<_, BTreeSet<_>>::new();
    for id in compiled(&metadata) {
        versions.entry(&metadata[id].name).or_default().insert(&metadata[id].version);
    }
    let skipped = deny("bans", "skip");
    versions.retain(|name, versions| {
        versions.retain(|version| !skipped.contains(&format!("{name}:{}", version.major)));
        versions.len() > 1
    });
    assert!(versions.is_empty(), "{versions:?}");
}

#[test]
fn manifests_say_what_registries_ask_for() {
    let metadata = metadata();
    for package in published(&metadata) {
        let name = &package.name;
        assert!(package.description.is_some() && package.license.is_some() && package.rust_version.is_some(), "{name}");
        assert!(package.readme.is_some(), "{name}");
        assert!(!package.keywords.is_empty() && !package.categories.is_empty(), "{name}");
    }
}

#[test]
fn packages_hold_no_tests_and_nothing_of_the_lab() {
    let library = files("spapr-iommu");
    let examples = ["examples/adder/", "examples/edu/", "examples/share.rs"];
    for file in &library {
        let folder = file.split_once('/').map(|(folder, _)| folder);
        let expected = match folder {
            None => !file.ends_with(".rs"),
            Some("src") => !file.starts_with("src/cli/") && !file.starts_with("src/capi/"),
            Some("examples") => file.ends_with(".toml") || examples.iter().any(|example| file.starts_with(example)),
            folder => folder == Some("docs"),
        };
        assert!(expected, "{file}");
    }
    let command = files("spapr-iommu-cli");
    for file in &command {
        let folder = file.split_once('/').map_or("", |(folder, _)| folder);
        let folders = ["", "command", "doctor", "inspect", "picture", "plan", "replay", "scenario"];
        assert!(folders.contains(&folder), "{file}");
    }
    let interface = files("spapr-iommu-c");
    for file in &interface {
        let folder = file.split_once('/').map_or("", |(folder, _)| folder);
        assert!(["", "examples", "include"].contains(&folder), "{file}");
    }
    for needed in ["include/spapr_iommu.h", "spapr_iommu.pc.in", "install"] {
        assert!(interface.iter().any(|file| file == needed), "{interface:?}");
    }
    for (files, entry) in [(&library, "src/lib.rs"), (&interface, "lib.rs"), (&command, "main.rs")] {
        let needed = [entry, "README.md", "LICENSE-APACHE", "LICENSE-MIT"];
        assert!(needed.iter().all(|needed| files.iter().any(|file| file == needed)), "{files:?}");
    }
}
