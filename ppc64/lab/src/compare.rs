//! The output of programs in a machine: compared with the model's, and counted.

use std::collections::BTreeMap;

use serde_json::Value;

/// Names of checks and, for a failed one, the reason.
pub type Checks = Vec<(String, Result<(), String>)>;

/// Returns the JSON documents of a run of scenarios, one per line, by title, without what names the
/// host.
pub(crate) fn documents(output: &str) -> BTreeMap<String, Value> {
    let documents = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    documents
        .filter_map(|mut document| {
            document.as_object_mut()?.remove("host");
            Some((document.get("title")?.as_str()?.to_owned(), document))
        })
        .collect()
}

/// Returns a check for each scenario: it ran as expected on the real kernel, and the model reports
/// the same, byte for byte.
pub(crate) fn scenarios(
    scenarios: &[String],
    model: &BTreeMap<String, Value>,
    real: &BTreeMap<String, Value>,
) -> Checks {
    let mut checks: Vec<_> = model
        .iter()
        .map(|(title, ours)| {
            let result = match real.get(title) {
                None => Err("it did not run on the real kernel".to_owned()),
                Some(theirs) => difference(ours, theirs, "").map_or(Ok(()), Err),
            };
            (format!("scenario: {title}"), result)
        })
        .collect();
    if model.len() != scenarios.len() {
        let error = format!("{} scenarios, {} documents of the model", scenarios.len(), model.len());
        checks.push(("every scenario ran on the model".into(), Err(error)));
    }
    checks
}

/// Returns where two documents first differ, and how.
fn difference(model: &Value, real: &Value, path: &str) -> Option<String> {
    match (model, real) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let names = ours.keys().chain(theirs.keys());
            let null = Value::Null;
            let of = |object: &serde_json::Map<String, Value>, name: &String| object.get(name).unwrap_or(&null).clone();
            names.into_iter().find_map(|name| difference(&of(ours, name), &of(theirs, name), &format!("{path}/{name}")))
        }
        (Value::Array(ours), Value::Array(theirs)) if ours.len() == theirs.len() => {
            ours.iter().zip(theirs).enumerate().find_map(|(i, (a, b))| difference(a, b, &format!("{path}/{i}")))
        }
        _ => (model != real).then(|| format!("{path}: the model has {model}, the real kernel {real}")),
    }
}

/// Splits the output of several test programs at their last lines.
pub(crate) fn programs(output: &str) -> Vec<&str> {
    let mut programs = Vec::new();
    let (mut start, mut at) = (0, 0);
    for line in output.split_inclusive('\n') {
        at += line.len();
        if line.starts_with(RESULT) {
            programs.push(output.get(start..at).unwrap_or_default());
            start = at;
        }
    }
    programs
}

const RESULT: &str = "test result:";

/// Returns the results of a test program, by its output: a check each. Failed ones have their
/// names.
pub(crate) fn tests(name: &str, printed: Option<&str>) -> Checks {
    let end = printed.and_then(|printed| printed.lines().find(|line| line.starts_with(RESULT)));
    let (Some(printed), Some(end)) = (printed, end) else {
        return vec![(name.into(), Err("they did not run".into()))];
    };
    let count = |word: &str| -> usize {
        let words: Vec<&str> = end.split_whitespace().collect();
        let at = words.iter().position(|there| there.trim_end_matches(';') == word);
        at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
    };
    let mut reported = failures(printed).into_iter();
    let passed = (0..count("passed")).map(|i| (format!("{name} {i}"), Ok(())));
    let failed = (0..count("failed")).map(|i| match reported.next() {
        Some((test, why)) => (format!("{name} {test}"), Err(why)),
        None => (format!("{name}, failed {i}"), Err(end.to_owned())),
    });
    let checks: Checks = passed.chain(failed).collect();
    if checks.is_empty() { vec![(name.into(), Err("there were none".into()))] } else { checks }
}

/// Returns the tests that failed, with their output.
fn failures(printed: &str) -> Vec<(String, String)> {
    let mut reported: Vec<(String, String)> = Vec::new();
    for line in printed.lines().skip_while(|line| *line != FAILURES).skip(1).take_while(|line| *line != FAILURES) {
        let heading = line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" ----"));
        match (heading, reported.last_mut()) {
            (Some(test), _) => reported.push((test.to_owned(), String::new())),
            (None, Some((_, why))) => *why += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    reported.iter().map(|(test, why)| (test.clone(), why.trim_end().to_owned())).collect()
}

/// Precedes the tests' output, and again the list of their names.
const FAILURES: &str = "failures:";

/// Returns the rules of the contract that were shown on the running kernel, raw calls included.
pub(crate) fn rules(output: &str) -> usize {
    let shown = |line: &&str| line.starts_with("test [kernel] ") && line.ends_with(" ok");
    output.lines().filter(shown).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_difference_is_found_and_named() {
        let ours = json!({"steps": [{"outcome": "ok"}], "a": 1});
        assert_eq!(difference(&ours, &ours.clone(), ""), None);
        let theirs = json!({"steps": [{"outcome": "overlap"}], "a": 1});
        let text = difference(&ours, &theirs, "").unwrap();
        assert_eq!(text, "/steps/0/outcome: the model has \"ok\", the real kernel \"overlap\"");
        assert!(difference(&ours, &json!({"steps": [], "a": 1}), "").is_some());
        assert!(difference(&ours, &json!({"steps": [{"outcome": "ok"}], "a": 1, "b": 2}), "").is_some());
    }

    #[test]
    fn a_scenario_that_did_not_run_is_a_failure() {
        let model = BTreeMap::from([("first".to_owned(), json!({}))]);
        let checks = scenarios(&["a.toml".into()], &model, &BTreeMap::new());
        assert!(checks[0].1.is_err());
        assert!(scenarios(&["a.toml".into()], &BTreeMap::new(), &BTreeMap::new())[0].1.is_err());
    }

    /// As `libtest_mimic` prints it, `--format terse`.
    const FAILED: &str = "
running 3 tests
.20 kills, SEED=1, half of them within 270.1ms
FF
failures:

---- first ----
2 bytes of memory are gone:
  9 before, 7 after

---- second ----


failures:
    first
    second

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 12.87s

";

    #[test]
    fn a_test_that_failed_is_named_with_what_it_said() {
        let why = |text: &str| Err(text.to_owned());
        let checks = tests("x", Some(FAILED));
        assert_eq!(checks[0], ("x 0".to_owned(), Ok(())));
        assert_eq!(checks[1], ("x first".to_owned(), why("2 bytes of memory are gone:\n  9 before, 7 after")));
        assert_eq!(checks[2], ("x second".to_owned(), why("")));
        assert_eq!(checks.len(), 3);
    }

    #[test]
    fn programs_are_told_apart_by_their_last_lines() {
        let output = format!("{{\"title\": \"a\"}}\n{FAILED}test result: ok. 1 passed; 0 failed\nthe walk");
        let programs = programs(&output);
        assert_eq!(programs.len(), 2);
        assert_eq!(tests("x", Some(programs[0])), tests("x", Some(FAILED)));
        assert_eq!(tests("x", programs.get(1).copied()), [("x 0".to_owned(), Ok(()))]);
    }

    #[test]
    fn tests_are_counted_by_their_last_line() {
        let good = |end| tests("x", end).iter().filter(|(_, result)| result.is_ok()).count();
        let line = "test result: ok. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!((tests("x", Some(line)).len(), good(Some(line))), (4, 3));
        for nothing in [None, Some("test result: ok. 0 passed; 0 failed")] {
            assert_eq!((tests("x", nothing).len(), good(nothing)), (1, 0));
        }
    }

    #[test]
    fn rules_count_where_the_kernel_showed_them() {
        let output =
            "test [kernel]  a ... ok\ntest [library] b ... ok\ntest [kernel]  c ... FAILED\ntest [model:x] d ... ok";
        assert_eq!(rules(output), 1);
    }
}
