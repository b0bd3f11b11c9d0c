//! The code in the guides is that of the examples, except for the indentation of its lines.

use super::root;
use std::fs;

/// Returns the blocks of a document in a language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("docs").join(document)).unwrap();
    let start = format!("```{language}\n");
    text.split(&*start).skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

fn without_indentation(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

/// Checks that each of at least `least` blocks is in one of the files, which a block may name in
/// its first line.
fn are_in(blocks: &[String], folder: &str, files: &[&str], least: usize) {
    assert!(blocks.len() >= least, "{} blocks", blocks.len());
    for block in blocks {
        let named = block.strip_prefix("// ").and_then(|block| block.split_once('\n'));
        let named = named.filter(|(name, _)| root().join(folder).join(name).is_file());
        let (files, code) = named.map_or((files.to_vec(), &**block), |(name, code)| (vec![name], code));
        let code = without_indentation(code);
        let found = files.iter().any(|file| {
            let source = fs::read_to_string(root().join(folder).join(file)).unwrap();
            without_indentation(&source).contains(code.trim())
        });
        assert!(found, "{files:?} in {folder} have no such lines:\n{block}");
    }
}

#[test]
fn the_guide_for_drivers_shows_the_code_of_edu() {
    are_in(&blocks("drivers.md", "rust,ignore"), "examples/edu", &["driver.rs"], 4);
}

#[test]
fn the_guide_to_device_models_shows_the_code_of_the_adder() {
    let files = ["driver.rs", "main.rs", "model.rs", "tests.rs"];
    are_in(&blocks("device-model.md", "rust,ignore"), "examples/adder", &files, 4);
}

#[test]
fn the_guide_for_vmms_shows_the_code_of_the_linux_monitor() {
    are_in(&blocks("guest.md", "rust,ignore"), "examples/linux", &[], 10);
}

#[test]
fn the_guide_for_c_shows_the_code_of_the_monitor() {
    are_in(&blocks("c.md", "c"), "src/capi/examples", &["monitor.c"], 8);
}
