//! What programs in a machine printed: compared with the model's, and counted.

use std::collections::BTreeMap;

use serde_json::Value;

/// Names of checks and, where one failed, why.
pub type Checks = Vec<(String, Result<(), String>)>;

/// The JSON documents of a run of scenarios, a line each, by title, without what names the host.
pub(crate) fn documents(output: &str) -> BTreeMap<String, Value> {
    let documents = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    documents
        .filter_map(|mut document| {
            document.as_object_mut()?.remove("host");
            Some((document.get("title")?.as_str()?.to_owned(), document))
        })
        .collect()
}

/// A check for each scenario: it ran as expected on the real kernel, and the model says the same, byte for byte.
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

/// Where two documents first differ, and how.
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

/// The results of a program made of tests, by what it prints at its end: a check each.
pub(crate) fn tests(name: &str, end: Option<&str>) -> Checks {
    let Some(line) = end else { return vec![(name.into(), Err("they did not run".into()))] };
    let count = |word: &str| -> usize {
        let words: Vec<&str> = line.split_whitespace().collect();
        let at = words.iter().position(|there| there.trim_end_matches(';') == word);
        at.and_then(|at| words.get(at.checked_sub(1)?)?.parse().ok()).unwrap_or(0)
    };
    let passed = (0..count("passed")).map(|i| (format!("{name} {i}"), Ok(())));
    let failed = (0..count("failed")).map(|i| (format!("{name}, failed {i}"), Err(line.to_owned())));
    let checks: Checks = passed.chain(failed).collect();
    if checks.is_empty() { vec![(name.into(), Err("there were none".into()))] } else { checks }
}

/// Rules of the contract that were shown on the running kernel, bare calls and all.
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
