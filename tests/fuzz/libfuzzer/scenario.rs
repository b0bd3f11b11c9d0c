//! The target `scenario` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| spapr_iommu_tests::fuzz::scenario(input));
