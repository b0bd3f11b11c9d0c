//! The documents name files, items and places of `unsafe` that exist.

use super::{root, sources};
use std::collections::BTreeSet;
use std::fs;

const DOCUMENTS: [&str; 4] = ["README.md", "docs/design.md", "docs/kernel-contract.md", "docs/validation.md"];

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap()
}

/// The text between backticks, outside of code blocks.
fn code_words(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The file that a word names; `None` if it names none, such as a type or a file of the machine.
fn path(word: &str) -> Option<&str> {
    let first = word.split_whitespace().next()?;
    let plain = first.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let named = first.contains('/') || [".rs", ".md", ".toml"].iter().any(|end| first.ends_with(end));
    Some(first).filter(|path| plain && named && !path.starts_with('/'))
}

#[test]
fn each_file_that_a_document_names_exists() {
    for document in DOCUMENTS {
        let text = read(document);
        let words = code_words(&text);
        let named: BTreeSet<_> = words.iter().filter_map(|word| path(word)).collect();
        assert!(!named.is_empty(), "{document} names files");
        for path in named {
            // A file of the library, or of its command, may be named from there.
            let exists = ["", "src", "src/cli"].iter().any(|folder| root().join(folder).join(path).exists());
            assert!(exists, "{document} names {path}");
        }
    }
}

#[test]
fn each_item_that_the_design_names_exists() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let source: String = files.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let names: BTreeSet<_> = source.split(|c| !is_name(c)).collect();
    let words = code_words(&read("docs/design.md"));
    let items: Vec<_> = words.iter().filter(|word| word.contains("::")).collect();
    assert!(!items.is_empty());
    for item in items {
        let missing = item.split(|c| !is_name(c)).find(|name| !names.contains(name));
        assert_eq!(missing, None, "docs/design.md names {item}");
    }
}

/// The files of the library that allow `unsafe`, as docs/design.md writes them: throughout, or at
/// least at one item.
fn allowing(text: &str) -> BTreeSet<String> {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    files.retain(|file| !file.ends_with("tests.rs") && fs::read_to_string(file).unwrap().contains(text));
    let below = files.iter().map(|file| file.strip_prefix(root().join("src")).unwrap());
    below.map(|file| file.to_str().unwrap().to_owned()).collect()
}

#[test]
fn unsafe_is_allowed_in_the_files_that_the_design_lists() {
    let design = read("docs/design.md");
    let table = design.split("| `unsafe` | files |").nth(1).expect("docs/design.md has the table of unsafe");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let rows: Vec<BTreeSet<String>> = rows.map(|row| code_words(row).into_iter().collect()).collect();
    assert_eq!(rows[0], allowing("#![allow(unsafe_code"), "files that do the work");
    let all: BTreeSet<_> = rows.iter().flatten().cloned().collect();
    assert_eq!(all, allowing("allow(unsafe_code"), "all files");
}
