//! Public types of the library: each has a name of its own, and each error can grow and has a kind
//! and a stable code.

use super::{root, sources};
use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

fn files() -> Vec<PathBuf> {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    files
}

#[test]
fn no_two_public_types_have_the_same_name() {
    let mut seen = BTreeSet::new();
    // Those of `uapi` have the kernel's names.
    for file in files().iter().filter(|file| !file.starts_with(root().join("src/uapi"))) {
        for line in fs::read_to_string(file).unwrap().lines() {
            let starts = ["pub struct ", "pub enum ", "pub trait ", "pub type "];
            let Some(rest) = starts.iter().find_map(|start| line.strip_prefix(start)) else { continue };
            let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned();
            assert!(seen.insert(name), "{}: another type has the name of `{line}`", file.display());
        }
    }
    assert!(seen.len() > 100, "{seen:?}");
}

/// Returns the public types of a source that derive or implement `Error`, each with its attributes.
fn errors(text: &str) -> Vec<(&str, String)> {
    let implemented = |name: &str| text.contains(&format!("impl std::error::Error for {name} "));
    let lines: Vec<_> = text.lines().collect();
    let types = lines.iter().enumerate().filter_map(|(at, line)| {
        let name =
            line.strip_prefix("pub enum ").or(line.strip_prefix("pub struct "))?.split([' ', '<', '(', ';']).next()?;
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("///"));
        let attributes: String = above.filter(|line| line.starts_with("#[")).copied().collect();
        let kind = if line.starts_with("pub enum") { "enum" } else { "struct" };
        (attributes.contains("thiserror::Error") || implemented(name)).then(|| (name, format!("{kind} {attributes}")))
    });
    types.collect()
}

#[test]
fn each_error_has_a_kind_and_a_code_and_can_grow() {
    let texts: Vec<_> = files().iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let all = texts.concat();
    let classified: BTreeSet<_> =
        all.split("classify!(").skip(1).map(|list| list.split_whitespace().next().unwrap().to_owned()).collect();
    let has = |name: &str, method: &str| {
        let blocks = all.split("\nimpl").skip(1).filter(|block| {
            block.lines().next().unwrap().trim_end_matches(" {").rsplit([' ', '<']).any(|word| word == name)
        });
        let mut bodies = blocks.map(|block| block.split("\n}").next().unwrap());
        bodies.any(|body| body.contains(&format!("pub fn {method}(&self)")))
    };
    let mut found = 0;
    for (name, attributes) in texts.iter().flat_map(|text| errors(text)) {
        found += 1;
        assert!(classified.contains(name) || has(name, "kind") && has(name, "code"), "{name} has no kind and code");
        assert!(attributes.starts_with("struct") || attributes.contains("#[non_exhaustive]"), "{name} cannot grow");
    }
    assert!(found > 30, "{found} errors");
}
