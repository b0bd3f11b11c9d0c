//! The library's modules import only downwards, in the order of the table in docs/design.md, and
//! the breaks of ci/breaks still match the code they break.

mod documents;
mod types;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the modules of the table in docs/design.md, lowest first.
fn order() -> Vec<String> {
    let design = fs::read_to_string(root().join("docs/design.md")).unwrap();
    let table = design.split("| module | what it is |").nth(1).expect("docs/design.md has the table of modules");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).expect("a row names its module").to_owned()).collect()
}

fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()) {
        // Nested packages are not part of the library.
        if entry.is_dir() && !entry.join("Cargo.toml").exists() {
            sources(&entry, found);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            found.push(entry);
        }
    }
}

/// Returns the module of a file: `space` for `src/space/apply.rs`, `addr` for `src/addr.rs`.
fn module(file: &Path) -> String {
    let below = file.strip_prefix(root().join("src")).unwrap();
    below.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// A name kept for programs written before the model became a feature; nothing imports by it.
const FORMER_PATH: &str = "pub use crate::model;";

/// Returns the names after `crate::` in code outside tests and comments.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//") && *line != FORMER_PATH);
    let names = lines.flat_map(|line| line.split("crate::").skip(1));
    names.map(|name| name.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect()).collect()
}

#[test]
fn each_module_imports_only_those_above_it_in_the_table() {
    let order = order();
    let place = |name: &str| order.iter().position(|module| module == name);
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut modules = BTreeSet::new();
    for file in files.iter().filter(|file| !file.ends_with("src/lib.rs")) {
        let own = module(file);
        let at = place(&own).unwrap_or_else(|| panic!("docs/design.md does not list the module `{own}`"));
        for used in imports(&fs::read_to_string(file).unwrap()) {
            let upward = place(&used).is_none_or(|used| used > at);
            assert!(!upward, "{} imports `{used}`, which docs/design.md does not list above `{own}`", file.display());
            assert!(used == own || used != "model", "{} imports the model", file.display());
        }
        modules.insert(own);
    }
    assert_eq!(modules, order.iter().cloned().collect(), "docs/design.md lists the modules there are");
}

/// Returns the breaks of a list: name, file, and the text that is replaced.
fn breaks(list: &str) -> Vec<(String, String, String)> {
    let text = fs::read_to_string(root().join("ci/breaks").join(list)).unwrap();
    let blocks = text.split("\n## ").skip(1);
    let block = |block: &str| {
        let (header, lines) = block.split_once('\n').unwrap();
        let mut parts = header.split('|').map(|part| part.trim().to_owned());
        let old: Vec<_> = lines.lines().filter_map(|line| line.strip_prefix("- ")).collect();
        (parts.next().unwrap(), parts.next().unwrap(), old.join("\n"))
    };
    blocks.map(block).collect()
}

#[test]
fn each_break_finds_what_it_breaks() {
    for (list, folder) in [("library", ""), ("model", "src/model")] {
        let breaks = breaks(list);
        assert!(!breaks.is_empty());
        for (name, file, old) in breaks {
            let source = fs::read_to_string(root().join(folder).join(&file)).unwrap();
            assert!(!old.is_empty() && source.contains(&old), "{name}: {file} has no `{old}`");
        }
    }
}
