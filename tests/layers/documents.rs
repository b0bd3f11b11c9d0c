//! The documents name existing files, items and places of `unsafe`.

use super::{root, sources};
use std::collections::BTreeSet;
use std::fs;

const DOCUMENTS: [&str; 4] = ["README.md", "docs/design.md", "docs/kernel-contract.md", "docs/validation.md"];

fn read(document: &str) -> String {
    fs::read_to_string(root().join(document)).unwrap()
}

/// Returns the text between backticks, outside of code blocks.
fn code_words(text: &str) -> Vec<String> {
    let prose: String = text.split("```").step_by(2).collect();
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the file that a word names; `None` for a type or a file of the machine.
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
            // A file of a package may be named relative to it.
            let exists =
                ["", "src", "src/capi", "src/cli"].iter().any(|folder| root().join(folder).join(path).exists());
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

/// Returns the files of a package that allow `unsafe`, as docs/design.md writes them: throughout,
/// or at least at one item.
fn allowing(package: &str, text: &str) -> BTreeSet<String> {
    let package = root().join(package);
    let mut files = Vec::new();
    sources(&package, &mut files);
    files.retain(|file| !file.ends_with("tests.rs") && fs::read_to_string(file).unwrap().contains(text));
    let below = files.iter().map(|file| file.strip_prefix(&package).unwrap());
    below.map(|file| file.to_str().unwrap().to_owned()).collect()
}

/// Returns the files in each row of a table of the design.
fn rows(heading: &str) -> Vec<BTreeSet<String>> {
    let design = read("docs/design.md");
    let table = design.split(heading).nth(1).expect("docs/design.md has the tables of unsafe");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    rows.map(|row| code_words(row).into_iter().collect()).collect()
}

#[test]
fn unsafe_is_allowed_in_the_files_that_the_design_lists() {
    let rows = rows("| `unsafe` | files |");
    assert_eq!(rows[0], allowing("src", "#![allow(unsafe_code"), "files that do the work");
    let all: BTreeSet<_> = rows.iter().flatten().cloned().collect();
    assert_eq!(all, allowing("src", "allow(unsafe_code"), "all files");
}

#[test]
fn unsafe_of_the_c_interface_is_in_the_files_that_the_design_lists() {
    let rows = rows("| `unsafe` of the C interface | files |");
    let all: BTreeSet<_> = rows.iter().flatten().cloned().collect();
    assert_eq!(all, allowing("src/capi", "allow(unsafe_code"));
    // Pointers are read and written in one file; the others hand them over.
    let works = |file: &&String| {
        let text = fs::read_to_string(root().join("src/capi").join(file)).unwrap();
        [".read()", ".write_unaligned(", "from_raw_parts", "from_ptr(", "from_raw(", "unsafe fn"]
            .iter()
            .any(|work| text.lines().any(|line| line.contains(work) && !line.trim_start().starts_with("//")))
    };
    let working: BTreeSet<_> = all.iter().filter(works).cloned().collect();
    assert_eq!(working, rows[0]);
}
