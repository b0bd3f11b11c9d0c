//! `docs/kernel-contract.md` and the table of rules say the same. In the document a rule is a link
//! with the test's name to the test's file.

use crate::rule::Leaves;
use crate::rules::{RULES, UNSHOWN};
use libtest_mimic::Failed;
use std::collections::BTreeSet;

const DOCUMENT: &str = include_str!("../../docs/kernel-contract.md");

/// Names and files of the links to tests.
fn links() -> Vec<(&'static str, &'static str)> {
    let behind = DOCUMENT.split("](../tests/contract/").collect::<Vec<_>>();
    let pairs = behind.windows(2).filter_map(|pair| {
        let name = pair[0].rsplit('[').next()?.trim_matches('`');
        Some((name, pair[1].split(')').next()?.strip_suffix(".rs")?))
    });
    pairs.collect()
}

/// Each rule is in the document, and each link of the document leads to a rule.
pub(crate) fn names_each_rule() -> Result<(), Failed> {
    let links = links();
    let missing: Vec<_> = RULES.iter().filter(|rule| !links.contains(&(rule.name, rule.file))).collect();
    let missing: Vec<_> =
        missing.iter().map(|rule| format!("[`{}`](../tests/contract/{}.rs)", rule.name, rule.file)).collect();
    let unknown: Vec<_> =
        links.iter().filter(|link| !RULES.iter().any(|rule| **link == (rule.name, rule.file))).collect();
    let untold: Vec<_> = UNSHOWN.iter().map(|rule| rule.name).filter(|name| !DOCUMENT.contains(name)).collect();
    if missing.is_empty() && unknown.is_empty() && untold.is_empty() {
        return Ok(());
    }
    Err(format!("not in the document: {missing:#?} {untold:#?}; in no table: {unknown:#?}").into())
}

/// Names are unique, and every entry says where in the kernel the rule is.
pub(crate) fn table_is_whole() -> Result<(), Failed> {
    let mut seen = BTreeSet::new();
    let places =
        RULES.iter().map(|rule| (rule.name, rule.place)).chain(UNSHOWN.iter().map(|rule| (rule.name, rule.place)));
    for (name, place) in places {
        if !seen.insert(name) {
            return Err(format!("{name} is in the table twice").into());
        }
        if !place.contains(": ") {
            return Err(format!("{name}: {place:?} is no file and function").into());
        }
    }
    if UNSHOWN.iter().any(|rule| rule.why.is_empty()) || !RULES.iter().any(|rule| rule.leaves == Leaves::Fatal) {
        return Err("a reason is missing".into());
    }
    Ok(())
}
