//! Any call with any numbers in any order: the model answers, and its books balance.

use proptest::prelude::*;
use spapr_iommu_tests::fuzz::raw::Calls;

fn calls() -> impl Strategy<Value = Calls> {
    prop::collection::vec(any::<u8>(), 0..1200).prop_map(|bytes| Calls::decode(&bytes).unwrap())
}

proptest! {
    #[test]
    fn any_call_is_answered_and_what_stays_locked_is_accounted_for(calls in calls()) {
        calls.run();
    }
}
