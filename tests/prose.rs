//! Prose is wrapped at 100 columns: documents, and comments of sources, scripts and manifests.

use std::fs;
use std::path::{Path, PathBuf};

const MAX_COLUMNS: usize = 100;

/// Directories without prose of this project.
const SKIPPED: [&str; 3] = [".git", "target", "cache"];

/// Collects the text files below `path`.
fn files(path: &Path, found: &mut Vec<(PathBuf, String)>) {
    for entry in fs::read_dir(path).unwrap().map(|entry| entry.unwrap()) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() && !SKIPPED.iter().any(|skipped| path.ends_with(skipped)) {
            files(&path, found);
        } else if kind.is_file() {
            // Files that are not UTF-8 contain no prose.
            found.extend(fs::read_to_string(&path).ok().map(|text| (path, text)));
        }
    }
}

/// Returns what starts a line of prose in a file: nothing in a document, a marker in code; `None`
/// for files without prose.
fn markers(path: &Path, text: &str) -> Option<&'static [&'static str]> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("md") => Some(&[""]),
        Some("rs") => Some(&["//!", "///", "//"]),
        Some("toml") => Some(&["#"]),
        None if text.starts_with("#!") => Some(&["#"]),
        _ => None,
    }
}

/// Columns of a line without the targets of its links, which cannot be wrapped.
fn columns(line: &str) -> usize {
    let mut parts = line.split("](");
    let text = parts.next().map_or(0, |first| first.chars().count());
    text + parts.map(|part| part.split_once(')').map_or(part, |(_, text)| text).chars().count()).sum::<usize>()
}

/// Returns the numbers of the lines of prose that are too long, except in tables and code blocks.
fn long_lines(text: &str, markers: &[&str]) -> Vec<usize> {
    let mut code = false;
    let mut long = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let Some(prose) = markers.iter().find_map(|marker| line.trim_start().strip_prefix(marker)) else {
            code = false;
            continue;
        };
        let prose = prose.trim_start();
        if prose.starts_with("```") {
            code = !code;
        } else if !code && !prose.starts_with('|') && columns(line) > MAX_COLUMNS {
            long.push(number);
        }
    }
    long
}

#[test]
fn prose_is_wrapped() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut found = Vec::new();
    files(&root, &mut found);
    let mut long = Vec::new();
    for (path, text) in &found {
        let lines = markers(path, text).map(|markers| long_lines(text, markers)).unwrap_or_default();
        let name = path.strip_prefix(&root).unwrap().display();
        long.extend(lines.iter().map(|line| format!("{name}:{line}")));
    }
    assert!(found.iter().any(|(path, _)| path.ends_with("docs/design.md")), "the documents are found");
    assert!(long.is_empty(), "wrap these lines at {MAX_COLUMNS} columns: {long:#?}");
}

#[test]
fn only_prose_that_can_be_wrapped_is_too_long() {
    let words = "word ".repeat(30);
    let document =
        format!("{words}\n| {words} |\n```\n{words}\n```\n[short](http://{})\n{words}", words.replace(' ', "-"));
    assert_eq!(long_lines(&document, &[""]), [1, 7]);
    let source = format!("/// {words}\nlet {words}\n    // {words}\n/// ```\n/// {words}\n/// ```\n/// {words}");
    assert_eq!(long_lines(&source, &["///", "//"]), [1, 3, 7]);
}
