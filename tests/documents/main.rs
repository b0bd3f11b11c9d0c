//! The documents form a book without loose ends: each page is in the table of contents, each link
//! has a target, each command can be run, and code is that of the examples.

mod commands;
mod guides;
mod links;

use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A document, by its path in the repository.
struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    fn events(&self) -> Parser<'_> {
        Parser::new_ext(&self.text, pulldown_cmark::Options::ENABLE_TABLES)
    }
}

/// Reads all documents that people read.
fn documents() -> Vec<Document> {
    let docs =
        fs::read_dir(root().join("docs")).unwrap().map(|entry| Path::new("docs").join(entry.unwrap().file_name()));
    let others = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "ppc64/README.md", "tests/fuzz/README.md"];
    let paths = docs.chain(others.map(PathBuf::from)).filter(|path| path.extension().is_some_and(|end| end == "md"));
    let documents = paths.map(|path| Document { text: fs::read_to_string(root().join(&path)).unwrap(), path });
    documents.collect()
}

/// A command that a document shows.
struct Shown {
    command: String,
    /// Whether it is in a shell block; code within a sentence may omit arguments.
    complete: bool,
}

/// Returns the commands that a document shows, and other code in its text.
fn shown(document: &Document) -> Vec<Shown> {
    let mut found = Vec::new();
    let mut shell = false;
    for event in document.events() {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(kind))) => {
                shell = matches!(kind.as_ref(), "sh" | "console");
            }
            Event::End(TagEnd::CodeBlock) => shell = false,
            Event::Text(text) if shell => {
                let commands = text.lines().map(|line| line.strip_prefix("$ ").unwrap_or(line).trim().to_owned());
                found.extend(commands.map(|command| Shown { command, complete: true }));
            }
            Event::Code(code) => found.push(Shown { command: code.to_string(), complete: false }),
            _ => {}
        }
    }
    found
}
