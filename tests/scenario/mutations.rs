//! Any text is read without a panic, and any order of steps runs without harm.

use super::examples;
use proptest::prelude::*;
use spapr_iommu_cli::Machine;
use spapr_iommu_cli::scenario::Scenario;

/// What a slip of the hand, or malice, puts into a file.
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

/// The head of an example, and its steps, each without what it expects.
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
        // The beginning stays, so that there is something to do harm to. A step that the file refuses
        // (it makes a name again) is left out.
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
