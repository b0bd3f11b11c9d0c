//! Scenarios and the command that runs them.

mod command;
mod documents;
mod faults;
mod mutations;
mod wrong_files;

use std::path::PathBuf;

/// Every machine, page size and kernel.
pub(crate) fn presets() -> impl Iterator<Item = String> {
    ["powernv8", "powernv9", "powernv10", "pseries"].into_iter().flat_map(|machine| {
        ["4k", "64k"]
            .into_iter()
            .flat_map(move |page| ["6.12", "7.2"].into_iter().map(move |kernel| format!("{machine}-{page}-{kernel}")))
    })
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the example scenarios: name and text.
pub(crate) fn examples() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let scenarios = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml"));
    let mut examples: Vec<_> = scenarios
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    examples.sort();
    assert!(examples.len() >= 6, "the examples are there");
    examples
}
