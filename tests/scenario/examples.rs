//! The examples hold on every machine.

use super::{examples, presets};
use spapr_iommu_cli::Machine;
use spapr_iommu_cli::scenario::{Report, Scenario};

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
        // Where a model has its memory.
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
