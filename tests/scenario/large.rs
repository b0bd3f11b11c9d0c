//! Large files load in time that grows with their size.

use spapr_iommu_cli::Machine;
use spapr_iommu_cli::scenario::Scenario;
use std::fmt::Write;
use std::time::{Duration, Instant};

/// Far more than a slow and busy machine needs; with time that grows with the square it would not
/// do.
const ENOUGH: Duration = Duration::from_secs(60);

/// Loads a scenario, and runs it on a model.
fn run(text: &str) {
    let began = Instant::now();
    let scenario = Scenario::parse(text).unwrap();
    assert!(began.elapsed() < ENOUGH, "loaded in {:?}", began.elapsed());
    let report = scenario.run(&Machine::model("powernv9".parse().unwrap(), 2), &mut ()).unwrap();
    assert!(report.passed);
    assert!(began.elapsed() < 2 * ENOUGH, "ran in {:?}", began.elapsed());
    // The line of each step is where its action stands.
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
