//! The conformance test's own test: two models in lockstep agree, and models that differ are told apart.

#[path = "conformance/lockstep/mod.rs"]
mod lockstep;

use lockstep::episode::Pair;
use lockstep::run::{Amount, Summary, run};
use lockstep::side::{fresh_model, shifted_model};

fn compare(left: &str, right: &str, seed: u64) -> Summary {
    let (left, right) = (left.parse().unwrap(), right.parse().unwrap());
    let pair = Pair { model: &|| fresh_model(left), real: &|| shifted_model(right) };
    let huge = left.huge_pages().to_vec();
    let amount = Amount { seed, from: 0, ops: 4000, length: 100, dma_every: 8, huge, trace: false };
    run(&pair, &amount, |_| {}).unwrap()
}

#[test]
fn a_model_agrees_with_itself_wherever_its_memory_lies() {
    for preset in ["powernv8", "powernv9-4k", "powernv10-7.2", "pseries", "pseries-4k-7.2", "pseries-noddw"] {
        let summary = compare(preset, preset, 1);
        assert_eq!(summary.differences, [""; 0], "{preset}");
        assert!(summary.tally.steps >= 4000 && summary.tally.transfers > 0, "{preset}");
        // Both answers of every call that matters.
        for call in ["REGISTER_MEMORY", "UNREGISTER_MEMORY", "TCE_CREATE", "TCE_REMOVE"] {
            let kind = &summary.tally.kinds[&*format!("VFIO_IOMMU_SPAPR_{call}")];
            let both = kind.well > 20 && kind.otherwise > 20;
            assert!(both || preset == "pseries-noddw", "{preset} {call}: {kind:?}");
        }
    }
}

#[test]
fn what_differs_is_found_and_shrunk() {
    for (left, right) in [("powernv9", "powernv9-4k"), ("pseries", "pseries-7.2"), ("powernv8", "powernv9")] {
        let summary = compare(left, right, 1);
        let [difference] = &summary.differences[..] else { panic!("{left} and {right} pass for the same") };
        let (_, shortest) = difference.split_once("shortest sequence that differs:\n").unwrap();
        let steps = shortest.lines().take_while(|line| !line.contains("there:")).count();
        assert!((1..=16).contains(&steps), "{difference}");
    }
}
