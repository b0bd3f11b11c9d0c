//! What the documentation shows is correct, and the examples hold on every machine.

use super::{examples, presets, root};
use spapr_iommu_cli::Machine;
use spapr_iommu_cli::scenario::{Report, Scenario};

/// Steps that precede the snippets of single steps.
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

/// Steps that precede the snippets of raw steps.
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

/// Returns the TOML snippets of a document, with the line on which each starts.
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

fn run(text: &str, preset: &str) -> Report {
    let scenario = Scenario::parse(text).unwrap();
    let machine = Machine::model(preset.parse().unwrap(), scenario.groups());
    scenario.run(&machine, &mut ()).unwrap()
}

#[test]
fn every_example_passes_on_every_machine() {
    for (name, text) in examples() {
        for preset in presets() {
            let report = run(&text, &preset);
            assert!(report.passed, "{name} on {preset}: {:?} {:?}", report.surprise(), report.end);
        }
    }
}

#[test]
fn a_report_says_nothing_of_the_moment_or_of_addresses() {
    for (name, text) in examples() {
        let shown = || serde_json::to_string(&run(&text, "powernv9")).unwrap();
        assert_eq!(shown(), shown(), "{name}");
        // Address of a model's memory.
        let addresses = shown().matches("user 0x").count() + shown().matches("vaddr=0x").count();
        assert_eq!(addresses, 0, "{name}");
    }
}

#[test]
fn kernels_differ_in_nothing_but_the_host() {
    for (name, text) in examples() {
        let shown = |preset| {
            let mut report = serde_json::to_value(run(&text, preset)).unwrap();
            report.as_object_mut().unwrap().remove("host").unwrap();
            report
        };
        assert_eq!(shown("pseries-4k-6.12"), shown("pseries-4k-7.2"), "{name}");
    }
}

#[test]
fn a_surprise_stops_the_scenario_and_all_is_given_back() {
    let text = r#"
        title = "surprise"
        [[memory]]
        name = "ram"
        size = "1M"
        [[step]]
        attach = { group = 0 }
        [[step]]
        register = { memory = "ram" }
        [[step]]
        map = { at = "default", memory = "ram" }
        [[step]]
        map = { at = "default", memory = "ram" }
        [[step]]
        show = {}
    "#;
    let report = run(text, "pseries");
    let surprise = report.surprise().unwrap();
    assert_eq!((surprise.number, surprise.line, surprise.outcome.as_str()), (4, 13, "overlap"));
    assert_eq!((report.steps.len(), report.passed, report.end.locked), (4, false, 0));
    assert_eq!(report.end.damage, [""; 0]);
}

#[test]
fn success_where_a_refusal_was_expected_is_a_surprise() {
    let text = "title = 't'\n[[step]]\nattach = { group = 0 }\nexpect = { pseries = 'one-group' }";
    assert!(run(text, "powernv9").passed);
    let report = run(text, "pseries");
    assert_eq!(report.surprise().unwrap().difference(), "expected one-group, got ok");
}
