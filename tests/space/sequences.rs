//! Any sequence of calls, valid or hostile: no trap is met, and space, hardware and a naive twin
//! agree.

use proptest::prelude::*;
use spapr_iommu_tests::space_model::Sequence;

fn sequence() -> impl Strategy<Value = Sequence> {
    prop::collection::vec(any::<u8>(), 0..600).prop_map(|bytes| Sequence::decode(&bytes).unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 600 } else { 3000 }))]

    #[test]
    fn no_sequence_of_calls_meets_a_trap_and_all_books_agree(sequence in sequence()) {
        sequence.run();
    }
}
