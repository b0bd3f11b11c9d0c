//! `docs/c.md` shows the example and what it prints.

use crate::package;
use crate::programs::printed_by_the_monitor;
use std::fs;

fn guide() -> String {
    fs::read_to_string(package().join("../../docs/c.md")).unwrap()
}

/// Returns the blocks of the guide in a language.
fn blocks(guide: &str, language: &str) -> Vec<String> {
    let start = format!("```{language}\n");
    let blocks = guide.split(&*start).skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn its_code_is_the_examples() {
    let bare = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let source = bare(&fs::read_to_string(package().join("examples/monitor.c")).unwrap());
    let blocks = blocks(&guide(), "c");
    assert!(blocks.len() >= 8, "{blocks:?}");
    for block in blocks {
        assert!(source.contains(bare(&block).trim()), "examples/monitor.c has no such lines:\n{block}");
    }
}

#[test]
fn its_output_is_the_examples() {
    let printed = printed_by_the_monitor();
    let shown = blocks(&guide(), "text");
    assert!(shown.iter().any(|block| block == printed), "{shown:?}\n{printed}");
}
