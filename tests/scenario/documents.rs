//! What the documentation shows is right.

use super::root;
use spapr_iommu_cli::Machine;
use spapr_iommu_cli::scenario::Scenario;

/// What the snippets of single steps have before them.
const BEFORE: &str = "\
title = 'before'
[[memory]]
name = 'ram'
size = '16M'
[[step]]
attach = { group = 0 }
[[step]]
register = { memory = 'ram', lease = 'all' }
[[step]]
window = { name = 'big', size = '64M' }
[[step]]
map = { at = 'default+16M', memory = 'ram' }
";

/// What the snippets of raw steps have before them.
const BEFORE_BARE: &str = "\
title = 'before'
[[raw]]
allocate = { size = '1M' }
[[raw]]
open = { file = 'container0' }
[[raw]]
open = { file = 'group0' }
[[raw]]
group-set-container = { file = 'group0', container = 'container0' }
[[raw]]
set-iommu = { file = 'container0', type = 7 }
[[raw]]
register-memory = { file = 'container0', vaddr = 'memory0', size = '1M' }
";

/// The TOML snippets of a document, with the line each begins at.
fn snippets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        if line.trim() == "```toml" {
            let body: Vec<_> = lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```").collect();
            found.push((at + 2, body.join("\n")));
        }
    }
    found
}

#[test]
fn every_snippet_parses_and_comes_out_as_it_says() {
    let text = std::fs::read_to_string(root().join("docs/scenario.md")).unwrap();
    let snippets = snippets(&text);
    assert!(snippets.len() > 12, "the snippets are found");
    for (line, snippet) in snippets {
        let before = if snippet.contains("[[raw]]") { BEFORE_BARE } else { BEFORE };
        let whole = if snippet.contains("title =") { snippet } else { format!("{before}{snippet}") };
        let scenario =
            Scenario::parse(&whole).unwrap_or_else(|error| panic!("docs/scenario.md:{line}: {error}\n{whole}"));
        for preset in ["powernv9", "powernv8-4k", "pseries", "pseries-4k"] {
            let machine = Machine::model(preset.parse().unwrap(), scenario.groups());
            let report = scenario.run(&machine, &mut ()).unwrap();
            assert!(report.passed, "docs/scenario.md:{line} on {preset}: {:?}", report.surprise());
        }
    }
}

#[test]
fn every_action_and_every_code_is_documented() {
    let text = std::fs::read_to_string(root().join("docs/scenario.md")).unwrap();
    let listed = |wrong: &str, from: &str| {
        let message = Scenario::parse(wrong).unwrap_err().message;
        let list = message.split_once(from).unwrap().1.to_owned();
        list.split(", ").map(|word| word.trim_matches('`').to_owned()).collect::<Vec<_>>()
    };
    let actions = listed("title = 't'\n[[step]]\nnote = ''\n", "expected one of ");
    let codes = listed("title = 't'\n[[step]]\nshow = {}\nexpect = ''\n", "error code: ");
    assert!(actions.len() > 15 && codes.len() > 30);
    let raw = listed("title = 't'\n[[raw]]\nnote = ''\n", "expected one of ");
    assert!(raw.len() > 25);
    for word in actions.iter().chain(&codes).chain(&raw) {
        assert!(text.contains(&format!("`{word}`")), "docs/scenario.md does not name `{word}`");
    }
}
