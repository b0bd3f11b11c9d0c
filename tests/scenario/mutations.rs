//! Any text is parsed without a panic and any order of steps runs without harm; large files load in
//! time that grows with their size.

use super::examples;
use proptest::prelude::*;
use spapr_iommu_cli::Machine;
use spapr_iommu_cli::scenario::Scenario;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// What a slip, or malice, puts into a file.
const SCRAPS: &[&str] = &[
    "",
    "[",
    "]",
    "[[",
    "{",
    "}",
    "\"",
    "'",
    "=",
    "+",
    "-",
    ",",
    "\n",
    "\r\n",
    "\t",
    "\\",
    "#",
    ".",
    "0x",
    "18446744073709551615",
    "-1",
    "16E",
    "15E",
    "nan",
    "é",
    "\u{feff}",
    "\0",
    "[[step]]\n",
    "[[memory]]\n",
    "expect",
    "= {",
    "default+",
    "0xffffffffffffffff",
];

fn cut(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..40_usize, 0..SCRAPS.len()), 1..6),
    ) {
        let examples = examples();
        let mut text = which.get(&examples).1.clone();
        for (at, len, scrap) in edits {
            let start = cut(&text, at.index(text.len() + 1));
            let end = cut(&text, start + len).max(start);
            text.replace_range(start..end, SCRAPS[scrap]);
        }
        if let Err(error) = Scenario::parse(&text) {
            prop_assert!(error.line >= 1 && error.line <= text.split('\n').count() && error.column >= 1);
            prop_assert!(!error.message.is_empty());
        }
    }
}

/// Splits an example into its head and its steps, each without its expectation.
fn pieces(text: &str) -> (String, Vec<String>) {
    let mut parts = text.split("[[step]]");
    let head = parts.next().unwrap().to_owned();
    let plain = |part: &str| part.lines().filter(|line| !line.starts_with("expect")).collect::<Vec<_>>().join("\n");
    (head, parts.map(|part| format!("[[step]]{}\n", plain(part))).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// The steps run up to the first refusal; then everything is released, and the kernel is
    /// unharmed.
    #[test]
    fn any_order_of_steps_leaves_nothing_behind(
        which in any::<prop::sample::Index>(),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        preset in prop::sample::select(vec!["powernv8-4k", "powernv9", "pseries", "pseries-4k-7.2"]),
    ) {
        let mut examples = examples();
        examples.retain(|(_, text)| text.contains("[[step]]"));
        let (head, steps) = pieces(&which.get(&examples).1);
        // The start stays, so that there is something to harm. A step that the file refuses (a name
        // defined twice) is left out.
        let mut text: String = [&head].into_iter().chain(&steps[..2]).cloned().collect();
        let mut scenario = Scenario::parse(&text).unwrap();
        for step in picks.iter().map(|pick| pick.get(&steps)) {
            let longer = format!("{text}{step}");
            if let Ok(longer_scenario) = Scenario::parse(&longer) {
                (text, scenario) = (longer, longer_scenario);
            }
        }
        let machine = Machine::model(preset.parse().unwrap(), scenario.groups());
        let report = scenario.run(&machine, &mut ()).unwrap();
        prop_assert!(report.end.is_clean(), "{text}\n{:?}", report.end);
    }
}

/// Far more than a slow and busy machine needs; quadratic time would exceed it.
const ENOUGH: Duration = Duration::from_secs(60);

/// Loads a scenario and runs it on a model.
fn run(text: &str) {
    let began = Instant::now();
    let scenario = Scenario::parse(text).unwrap();
    assert!(began.elapsed() < ENOUGH, "loaded in {:?}", began.elapsed());
    let report = scenario.run(&Machine::model("powernv9".parse().unwrap(), 2), &mut ()).unwrap();
    assert!(report.passed);
    assert!(began.elapsed() < 2 * ENOUGH, "ran in {:?}", began.elapsed());
    // The line of each step is that of its action.
    let lines: Vec<_> = text.lines().collect();
    assert!(report.steps.iter().all(|step| lines[step.line - 1].starts_with(step.action)));
}

#[test]
fn steps_with_names_of_their_own_load_in_linear_time() {
    let mut text = "title = 't'\n[[memory]]\nname = 'ram'\nsize = '1M'\n[[step]]\nattach = { group = 0 }\n".to_owned();
    for count in 0..30_000 {
        write!(text, "[[step]]\nregister = {{ memory = 'ram', lease = 'l{count}' }}\n").unwrap();
        write!(text, "\n[[step]]\nrelease = {{ lease = 'l{count}' }}\n").unwrap();
    }
    run(&text);
}

#[test]
fn memories_load_and_are_allocated_in_linear_time() {
    let mut text = "title = 't'\n".to_owned();
    for count in 0..60_000 {
        write!(text, "[[memory]]\nname = 'm{count}'\nsize = '64K'\n").unwrap();
    }
    for count in 0..60_000 {
        write!(text, "[[step]]\nfill = {{ memory = 'm{count}', size = 1, pattern = 1 }}\n").unwrap();
    }
    run(&text);
}

#[test]
fn an_error_lists_few_of_many_names() {
    let mut text = "title = 't'\n".to_owned();
    for count in 0..100 {
        write!(text, "[[memory]]\nname = 'm{count}'\nsize = '64K'\n").unwrap();
    }
    let error = Scenario::parse(&format!("{text}[[step]]\nfill = {{ memory = 'x', pattern = 1 }}\n")).unwrap_err();
    assert!(error.message.ends_with(", and 84 more)"), "{error}");
}
