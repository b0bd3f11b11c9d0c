//! Any sequence of a guest's calls, with devices and memory that come and go: tables, hardware and
//! a naive twin agree.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use spapr_iommu_tests::guest_model::Sequence;
use std::sync::atomic::{AtomicU32, Ordering};

fn sequence() -> impl Strategy<Value = Sequence> {
    prop::collection::vec(any::<u8>(), 0..600).prop_map(|bytes| Sequence::decode(&bytes).unwrap())
}

#[test]
fn no_guest_maps_what_is_not_its_ram_and_all_tables_agree() {
    let cases = if cfg!(debug_assertions) { 600 } else { 5000 };
    let mapping = AtomicU32::new(0);
    let result = TestRunner::new(Config { source_file: Some(file!()), ..Config::with_cases(cases) }).run(
        &sequence(),
        |sequence| {
            mapping.fetch_add(u32::from(sequence.run() > 0), Ordering::Relaxed);
            Ok(())
        },
    );
    if let Err(error) = result {
        panic!("{error}");
    }
    let mapping = mapping.into_inner();
    assert!(mapping > cases / 8, "only {mapping} of {cases} sequences mapped anything for a device");
}
